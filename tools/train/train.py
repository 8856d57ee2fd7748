"""Train a bundled model: the large one on text alone, the draft also on the large one's predictions.

    python train.py --size large --corpus train.txt.xz --valid valid.txt.xz \
        --tokenizer tokenizer.model --out FOLDER

Under torchrun each process takes one GPU and its share of every step's rows.
README.md has the commands that made the released weights.
"""

import argparse
import os
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from data import BOS, RowStream, encode_documents, read_documents, text_bytes
from evaluate import bits_per_byte, load_model, total_nats
from export import export
from model import Griffin, GriffinConfig, document_positions, parameter_count
from optimizer import Optimizer, orthogonalise

SIZES = {
    "large": GriffinConfig(),
    "draft": GriffinConfig(hidden_size=128, lru_width=128, num_hidden_layers=3, num_attention_heads=2,
                           mlp_width=384),
    "tiny": GriffinConfig(hidden_size=64, lru_width=64, num_hidden_layers=3, num_attention_heads=2,
                          mlp_width=64),
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="large", choices=sorted(SIZES))
    parser.add_argument("--shape", help="override, e.g. hidden_size=512,num_hidden_layers=6")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--valid", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--cache", help="where to keep the encoded corpus between runs (.npz)")
    parser.add_argument("--out", required=True, help="model folder to write")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--time-limit", type=float, default=1e9,
                        help="seconds; the learning rate reaches zero by then even if steps are left")
    parser.add_argument("--batch", type=int, default=32, help="rows per step and process")
    parser.add_argument("--length", type=int, default=2048, help="tokens per row")
    parser.add_argument("--lr", type=float, default=4e-3, help="of the matrices (Muon)")
    parser.add_argument("--adam-lr", type=float, default=4e-3, help="of all else (AdamW)")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=150, help="steps")
    parser.add_argument("--decay", type=float, default=0.6, help="last part of the run, rate linear to 0")
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--teacher", help="model folder whose predictions to learn from")
    parser.add_argument("--teacher-share", type=float, default=0.8, help="of the loss")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--eval-every", type=int, default=500)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--limit", type=int, help="only the first documents of the corpora")
    parser.add_argument("--checkpoint", help="file with all that is needed to go on with a run")
    parser.add_argument("--checkpoint-every", type=int, default=2000)
    parser.add_argument("--resume", action="store_true", help="go on from --checkpoint")
    return parser.parse_args()


def load_corpus(args):
    texts = read_documents(args.valid)[:args.limit]
    valid = encode_documents(texts, args.tokenizer), text_bytes(texts)
    if args.cache and os.path.exists(args.cache):
        saved = np.load(args.cache)
        return np.split(saved["tokens"], saved["cuts"]), *valid
    documents = encode_documents(read_documents(args.corpus)[:args.limit], args.tokenizer)
    if args.cache:
        np.savez(args.cache, tokens=np.concatenate(documents),
                 cuts=np.cumsum([len(document) for document in documents])[:-1])
    return documents, *valid


class LocalMask:
    """Block mask of the window for flex_attention; documents are told apart inside the blocks.

    The blocks visited do not depend on the documents, so the mask is built once and only the
    table of document starts is refilled.
    """

    def __init__(self, batch, length, window, device, block=128):
        from torch.nn.attention.flex_attention import BlockMask
        self.starts = torch.zeros(batch, length, dtype=torch.int32, device=device)
        starts = self.starts

        def visible(b, h, query, key):
            return (key <= query) & (query - key <= window) & (key >= starts[b, query])

        count = length // block
        last = torch.arange(count, device=device)
        first = (last - -(-window // block)).clamp(min=0)
        number = (last - first + 1).to(torch.int32)
        index = (first[:, None] + torch.arange(count, device=device)).clamp(max=count - 1)
        self.mask = BlockMask.from_kv_blocks(number[None, None], index[None, None].to(torch.int32),
                                             BLOCK_SIZE=block, mask_mod=visible,
                                             seq_lengths=(length, length))

    def update(self, positions):
        index = torch.arange(positions.shape[1], device=positions.device)
        self.starts.copy_(index - positions)
        return self.mask


def token_loss(hidden, table, cap, targets, teacher_hidden, teacher_table, teacher_share):
    """Mean cross entropy, and what to minimise (mixed with the teacher's distribution, if any)."""
    logits = cap * torch.tanh(F.linear(hidden, table).flatten(0, 1).float() / cap)
    targets = targets.flatten()
    entropy = F.cross_entropy(logits, targets, ignore_index=-100)
    if teacher_hidden is None:
        return entropy, entropy
    soft = cap * torch.tanh(F.linear(teacher_hidden, teacher_table).flatten(0, 1).float() / cap)
    soft = -(soft.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    soft = torch.where(targets >= 0, soft, 0.0).sum() / (targets >= 0).sum()
    return entropy, teacher_share * soft + (1 - teacher_share) * entropy


def rate(args, step, elapsed):
    progress = max(step / args.steps, elapsed / args.time_limit)
    return min(1.0, (step + 1) / args.warmup, max(0.0, 1 - progress) / args.decay)


def main():
    args = parse_arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = device == "cuda"
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_float32_matmul_precision("high")

    config = SIZES[args.size]
    for item in (args.shape or "").split(","):
        if item:
            key, value = item.split("=")
            setattr(config, key, int(value))
    train_documents, valid_documents, valid_bytes = load_corpus(args)
    if world > 1:
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if gpu else "gloo")
    torch.manual_seed(args.seed + rank)  # dropout differs between processes, all else is the same

    def log(text):
        if rank == 0:
            print(text, flush=True)

    log(f"train: {len(train_documents)} documents, {sum(map(len, train_documents))} tokens; "
          f"valid: {sum(map(len, valid_documents))} tokens, {valid_bytes} bytes")
    stream = RowStream(train_documents, args.batch * world, args.length, args.seed)

    model = Griffin(config, args.dropout).initialise(args.seed).to(device).train()
    optimizer = Optimizer(model, args.lr, args.adam_lr, args.weight_decay)
    parameters = list(model.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    # Validation has its own, uncompiled copy: other shapes and no dropout, so nothing recompiles.
    scratch = Griffin(config).to(device).eval()
    teacher = load_model(args.teacher, device) if args.teacher else None
    log(f"{config}\n{parameter_count(model)} parameters, {world} processes, arguments {vars(args)}")

    loss_function = token_loss
    if gpu:
        torch._dynamo.config.cache_size_limit = 64
        # One layer at a time: layers of a kind share their compiled code.
        for layer in list(model.model.layers) + (list(teacher.model.layers) if teacher else []):
            layer.compile()
        loss_function = torch.compile(token_loss)
        optimizer.muon.orthogonalise = torch.compile(orthogonalise)
        mask = LocalMask(args.batch, args.length, config.attention_window_size, device)

    def measure(values):
        with torch.no_grad():
            for target, value in zip(scratch.parameters(), values):
                target.copy_(value.bfloat16())
        nats, _ = total_nats(scratch, valid_documents, device,
                             torch.bfloat16 if gpu else torch.float32)
        return bits_per_byte(nats, valid_bytes)

    step, spent = 0, 0.0
    if args.resume:
        saved = torch.load(args.checkpoint, map_location=device, weights_only=False)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        for target, value in zip(average, saved["average"]):
            target.copy_(value)
        step, spent, stream.__dict__ = saved["step"], saved["spent"], saved["stream"]
        stream.documents = train_documents
        torch.set_rng_state(saved["random"].cpu())

    def save_checkpoint():
        kept = {key: value for key, value in stream.__dict__.items() if key != "documents"}
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                    "average": average, "step": step, "spent": elapsed, "stream": kept,
                    "random": torch.get_rng_state()}, args.checkpoint + ".part")
        os.replace(args.checkpoint + ".part", args.checkpoint)

    def clock():
        """Seconds so far by the first process's clock, so that all agree on rate and end."""
        seconds = torch.tensor(time.time() - began, device=device)
        if world > 1:
            dist.broadcast(seconds, 0)
        return seconds.item()

    def export_weights(values):
        export(dict(zip((name for name, _ in model.named_parameters()), values)), config,
               args.tokenizer, args.out)

    began = time.time() - spent
    mark, mark_step, losses, elapsed = time.time(), step, [], spent
    while step < args.steps and elapsed < args.time_limit:
        rows = stream.next()[rank * args.batch:(rank + 1) * args.batch]
        rows = torch.from_numpy(rows).to(device, non_blocking=True)
        tokens, targets = rows[:, :-1], rows[:, 1:]
        targets = torch.where(targets == BOS, -100, targets)
        positions = document_positions(tokens, BOS)
        block_mask = mask.update(positions) if gpu else None
        with torch.autocast(device, dtype=torch.bfloat16, enabled=gpu):
            hidden = model.model(tokens, positions, block_mask)
            extra = (None, None, 0.0)
            if teacher:
                with torch.no_grad():
                    extra = (teacher.model(tokens, positions, block_mask),
                             teacher.model.embed_tokens.weight, args.teacher_share)
            entropy, loss = loss_function(hidden, model.model.embed_tokens.weight,
                                          config.logits_soft_cap, targets, *extra)
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        if world > 1:
            flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
            dist.all_reduce(flat)
            pieces = flat.div_(world).split([parameter.numel() for parameter in parameters])
            torch._foreach_copy_([parameter.grad for parameter in parameters],
                                 [piece.view_as(p) for piece, p in zip(pieces, parameters)])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scale = rate(args, step, elapsed)
        optimizer.step(scale)
        # A short average at first, so that the start of the run is forgotten.
        torch._foreach_lerp_(average, [p.detach() for p in parameters],
                             1 - min(args.ema, (step + 1) / (step + 10)))
        losses.append(entropy.detach())
        step += 1
        if step % 10 == 0 or step == args.steps:
            elapsed = clock()

        if step % args.log_every == 0:
            mean = torch.stack(losses).mean().item()
            speed = (step - mark_step) * world * targets.numel() / (time.time() - mark)
            log(f"step {step} epoch {stream.epoch} loss {mean:.4f} rate {scale:.3f} "
                f"{speed / 1e3:.1f} ktok/s {elapsed:.0f} s")
            mark, mark_step, losses = time.time(), step, []
        if step % args.eval_every == 0:
            if rank == 0:
                log(f"  valid {measure(parameters):.4f} bits per byte, averaged weights "
                    f"{measure(average):.4f}")
                export_weights(parameters)
            mark, mark_step = time.time(), step
        if args.checkpoint and rank == 0 and step % args.checkpoint_every == 0:
            save_checkpoint()

    if rank == 0:
        if args.checkpoint:
            save_checkpoint()
        # Both measured as they will be stored, rounded to bfloat16; the better one is kept.
        scores = {"last": measure(parameters), "averaged": measure(average)}
        best = min(scores, key=scores.get)
        export_weights(parameters if best == "last" else average)
        log(f"done: {step} steps, {step * world * args.batch * args.length} tokens, {stream.epoch} "
            f"epochs begun, {elapsed:.0f} s; {scores}; wrote the {best} weights")
        if gpu:
            log(f"memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        nats, count = total_nats(load_model(args.out, device), valid_documents, device)
        log(f"stored weights, float32: {nats / count:.4f} nats per token, "
            f"{bits_per_byte(nats, valid_bytes):.4f} bits per byte")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
