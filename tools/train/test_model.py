"""Checks of the training code: `python test_model.py` (uses the GPU kernels where there is a GPU)."""

import torch

from data import BOS
from model import Griffin, GriffinConfig, document_positions, window_attention
from scan import linear_scan
from train import LocalMask

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def relative(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def test_scan_and_its_gradient():
    torch.manual_seed(0)
    a = torch.rand(3, 133, 70, dtype=torch.float64) * (torch.rand(3, 133, 1) > 0.03)
    b = torch.randn(3, 133, 70, dtype=torch.float64)
    weight = torch.randn(3, 133, 70, dtype=torch.float64)
    a.requires_grad_(), b.requires_grad_()
    h, states = torch.zeros(3, 70, dtype=torch.float64), []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    expected = torch.stack(states, 1)
    (expected * weight).sum().backward()
    fast_a, fast_b = (x.detach().float().to(DEVICE).requires_grad_() for x in (a, b))
    actual = linear_scan(fast_a, fast_b)
    (actual * weight.float().to(DEVICE)).sum().backward()
    for name, got, want in [("h", actual, expected), ("da", fast_a.grad, a.grad), ("db", fast_b.grad, b.grad)]:
        error = relative(got.detach().double().cpu(), want.detach())
        print(f"scan {name}: {error:.1e}")
        assert error < 1e-5


def random_rows(batch, length):
    tokens = torch.randint(7, 8192, (batch, length), generator=torch.Generator().manual_seed(2))
    for row, start in [(0, 0), (0, 5), (0, 700), (1, 300), (1, 301)]:
        tokens[row, start] = BOS
    return tokens.to(DEVICE)


def test_window_attention():
    torch.manual_seed(0)
    tokens = random_rows(2, 1300)
    positions = document_positions(tokens, BOS)
    q = torch.randn(2, 4, 1300, 32, device=DEVICE)
    k, v = torch.randn(2, 2, 1, 1300, 32, device=DEVICE)
    index = torch.arange(1300, device=DEVICE)
    distance = index[:, None] - index
    mask = (distance >= 0) & (distance <= 512) & (distance <= positions[:, :, None])
    scores = (q @ k.mT) * 32**-0.5
    expected = scores.masked_fill(~mask[:, None], float("-inf")).softmax(-1) @ v
    error = relative(window_attention(q, k, v, positions, 512), expected)
    print(f"window attention: {error:.1e}")
    assert error < 1e-3


def test_documents_do_not_leak():
    model = Griffin(GriffinConfig(num_hidden_layers=3)).initialise(1).to(DEVICE).eval()
    tokens = random_rows(2, 1300)
    with torch.no_grad():
        packed = model(tokens, document_positions(tokens, BOS))[0, 5:700]
        alone = tokens[:1, 5:700]
        alone = model(alone, document_positions(alone, BOS))[0]
    error = relative(packed, alone)
    print(f"packed against alone: {error:.1e}")
    assert error < 1e-3


def test_compiled_training_path():
    if DEVICE == "cpu":
        return
    tokens = random_rows(2, 1024)
    positions = document_positions(tokens, BOS)
    gradients, losses = [], []
    for compiled in (False, True):
        model = Griffin(GriffinConfig(num_hidden_layers=3)).initialise(1).to(DEVICE).train()
        mask = None
        if compiled:
            mask = LocalMask(2, 1024, 512, DEVICE).update(positions)
            for layer in model.model.layers:
                layer.compile()
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=compiled):
            loss = torch.nn.functional.cross_entropy(
                model(tokens, positions, mask)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    worst = max((relative(gradients[1][name], gradients[0][name]), name) for name in gradients[0])
    print(f"bf16 compiled against float32: losses {losses}, worst gradient {worst}")
    assert abs(losses[0] - losses[1]) < 0.02 and worst[0] < 0.1


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
    print("ok")
