"""What torch.matmul makes of the shapes of cuda_matmul_bench, in bfloat16: the ceiling beside it."""

import torch

SHAPES = {"xy": (5120, 2560), "lru_out": (2560, 2560), "mlp": (15360, 2560), "down": (2560, 7680)}


def microseconds(run, repeats):
    for _ in range(3):
        run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            run()
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / repeats)
    return min(times)


def main():
    with torch.inference_mode():
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        time = microseconds(lambda: a @ b, 5)
        print(f"8192^3: {2 * 8192**3 / time / 1e6:.0f} TFLOP/s")
        for name, (n, k) in SHAPES.items():
            copies = max(4, (400 << 20) // (2 * n * k))
            weights = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
            line = []
            for rows in (1, 8, 32, 64, 128, 256, 1024, 4096):
                x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
                state = {"i": 0}

                def run():
                    state["i"] += 1
                    return x @ weights[state["i"] % copies].T

                time = microseconds(run, copies)
                rate = 2 * rows * n * k / time / 1e6
                line.append(f"{rows}: {time:.1f}" + (f" ({rate:.0f} TF)" if rows > 200 else ""))
            print(f"torch {name} us, rows {', '.join(line)}")


if __name__ == "__main__":
    main()
