"""The linear recurrence h[t] = a[t] * h[t-1] + b[t] over [batch, time, channel], in float32.

On a GPU each program walks over time in tiles and scans inside a tile; elsewhere the recurrence is
doubled log2(time) times. Both are registered as one operator, so that torch.compile keeps it whole.
"""

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # a machine without a GPU
    triton = None

TIME_TILE = 32
CHANNEL_TILE = 32

if triton is not None:
    @triton.jit
    def _combine(a_left, b_left, a_right, b_right):
        return a_left * a_right, a_right * b_left + b_right

    @triton.jit
    def _forward_kernel(a_ptr, b_ptr, h_ptr, time, channels,
                        TIME: tl.constexpr, CHANNEL: tl.constexpr):
        base = tl.program_id(0).to(tl.int64) * time * channels
        channel = tl.program_id(1) * CHANNEL + tl.arange(0, CHANNEL)[None, :]
        row = tl.arange(0, TIME)[:, None]
        carry = tl.zeros((CHANNEL,), dtype=tl.float32)
        for start in range(0, time, TIME):
            inside = (start + row < time) & (channel < channels)
            offset = base + (start + row).to(tl.int64) * channels + channel
            a = tl.load(a_ptr + offset, inside, other=0.0)
            b = tl.load(b_ptr + offset, inside, other=0.0)
            a, h = tl.associative_scan((a, b), 0, _combine)
            h += a * carry[None, :]
            tl.store(h_ptr + offset, h, inside)
            carry = tl.sum(tl.where(row == TIME - 1, h, 0.0), 0)

    @triton.jit
    def _backward_kernel(a_ptr, h_ptr, dh_ptr, da_ptr, db_ptr, time, channels,
                         TIME: tl.constexpr, CHANNEL: tl.constexpr):
        base = tl.program_id(0).to(tl.int64) * time * channels
        channel = tl.program_id(1) * CHANNEL + tl.arange(0, CHANNEL)[None, :]
        row = tl.arange(0, TIME)[:, None]
        carry = tl.zeros((CHANNEL,), dtype=tl.float32)
        for start in range(0, time, TIME):
            t = time - 1 - (start + row)  # from the last step back to the first
            inside = (t >= 0) & (channel < channels)
            offset = base + t.to(tl.int64) * channels + channel
            a_next = tl.load(a_ptr + offset + channels, inside & (t < time - 1), other=0.0)
            dh = tl.load(dh_ptr + offset, inside, other=0.0)
            h_before = tl.load(h_ptr + offset - channels, inside & (t > 0), other=0.0)
            a_next, g = tl.associative_scan((a_next, dh), 0, _combine)
            g += a_next * carry[None, :]
            tl.store(db_ptr + offset, g, inside)
            tl.store(da_ptr + offset, g * h_before, inside)
            carry = tl.sum(tl.where(row == TIME - 1, g, 0.0), 0)


def _grid(a):
    return a.shape[0], triton.cdiv(a.shape[2], CHANNEL_TILE)


def _doubling(a, b):
    """Prefix composition of the affine maps x -> a x + b along dimension 1."""
    step = 1
    while step < a.shape[1]:
        a_left, b_left = a[:, :-step], b[:, :-step]
        b = torch.cat([b[:, :step], a[:, step:] * b_left + b[:, step:]], 1)
        a = torch.cat([a[:, :step], a[:, step:] * a_left], 1)
        step *= 2
    return b


@torch.library.custom_op("griffin::linear_scan", mutates_args=())
def linear_scan(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a.contiguous(), b.contiguous()
    if not a.is_cuda:
        return _doubling(a, b) if a.shape[1] > 1 else b.clone()
    h = torch.empty_like(b)
    _forward_kernel[_grid(a)](a, b, h, a.shape[1], a.shape[2], TIME_TILE, CHANNEL_TILE)
    return h


@linear_scan.register_fake
def _(a, b):
    return torch.empty(b.shape, dtype=b.dtype, device=b.device)


@torch.library.custom_op("griffin::linear_scan_backward", mutates_args=())
def linear_scan_backward(a: torch.Tensor, h: torch.Tensor,
                         dh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    a, h, dh = a.contiguous(), h.contiguous(), dh.contiguous()
    if not a.is_cuda:
        a_next = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], 1)
        h_before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
        g = linear_scan(a_next.flip(1), dh.flip(1)).flip(1)
        return g * h_before, g
    da, db = torch.empty_like(a), torch.empty_like(a)
    _backward_kernel[_grid(a)](a, h, dh, da, db, a.shape[1], a.shape[2], TIME_TILE, CHANNEL_TILE)
    return da, db


@linear_scan_backward.register_fake
def _(a, h, dh):
    return (torch.empty(a.shape, dtype=a.dtype, device=a.device),
            torch.empty(a.shape, dtype=a.dtype, device=a.device))


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], output)


def _backward(ctx, dh):
    return linear_scan_backward(*ctx.saved_tensors, dh)


linear_scan.register_autograd(_backward, setup_context=_setup_context)
