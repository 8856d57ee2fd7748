"""Muon for the matrices inside the layers, AdamW for the embedding, vectors and convolutions."""

import torch


def is_matrix(name):
    return ".layers." in name and (name.endswith("gate_weight") or (
        name.endswith(".weight") and "conv_1d" not in name and "norm" not in name))


def orthogonalise(update):
    """Newton-Schulz iteration that pushes every singular value of [n, rows, columns] towards 1."""
    x = update.bfloat16()
    wide = x.shape[-2] > x.shape[-1]
    if wide:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if wide else x


class Muon:
    """Nesterov momentum, then orthogonalisation; one batched product for all matrices of a shape.

    Updates are scaled to the root mean square that AdamW's have, so both share one learning rate.
    """

    def __init__(self, parameters, lr, weight_decay, momentum=0.95):
        self.base_lr, self.lr = lr, lr
        self.weight_decay, self.momentum = weight_decay, momentum
        groups = {}
        for parameter in parameters:
            groups.setdefault(tuple(parameter.shape), []).append(parameter)
        self.groups = list(groups.values())
        self.buffers = [torch.zeros((len(group), *group[0].shape), device=group[0].device)
                        for group in self.groups]
        self.orthogonalise = orthogonalise

    @torch.no_grad()
    def step(self):
        for group, buffer in zip(self.groups, self.buffers):
            gradient = torch.stack([parameter.grad for parameter in group]).float()
            buffer.lerp_(gradient, 1 - self.momentum)
            update = gradient.lerp(buffer, self.momentum)
            rows, columns = update.shape[-2:]
            update = self.orthogonalise(update.reshape(-1, rows, columns)).view_as(buffer).float()
            update *= 0.2 * max(rows, columns) ** 0.5
            torch._foreach_mul_(group, 1 - self.lr * self.weight_decay)
            torch._foreach_add_(group, list(update.unbind(0)), alpha=-self.lr)

    def state_dict(self):
        return {"buffers": self.buffers}

    def load_state_dict(self, state):
        for mine, saved in zip(self.buffers, state["buffers"]):
            mine.copy_(saved)


class Optimizer:
    def __init__(self, model, lr, adam_lr, weight_decay):
        matrices, table, vectors = [], [], []
        for name, parameter in model.named_parameters():
            if is_matrix(name):
                matrices.append(parameter)
            elif name.endswith("embed_tokens.weight"):
                table.append(parameter)
            else:
                vectors.append(parameter)
        self.muon = Muon(matrices, lr, weight_decay)
        fused = table[0].is_cuda
        self.adam = torch.optim.AdamW(
            [{"params": table, "weight_decay": weight_decay * 0.1},
             {"params": vectors, "weight_decay": 0.0}],
            lr=adam_lr, betas=(0.9, 0.98), eps=1e-10, fused=fused)
        self.base_adam_lr = adam_lr

    def step(self, scale):
        self.muon.lr = self.muon.base_lr * scale
        for group in self.adam.param_groups:
            group["lr"] = self.base_adam_lr * scale
        self.muon.step()
        self.adam.step()

    def state_dict(self):
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state):
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
