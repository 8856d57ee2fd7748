// The CPU implementations behind the functions of kernels/*.h. They assume valid params.
#ifndef REPRISE_KERNELS_CPU_CPU_H_
#define REPRISE_KERNELS_CPU_CPU_H_

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "kernels/recurrence.h"

namespace reprise::kernels::cpu {

// `destination`: [blocks, panels, k, kPanel] of the source's dtype.
// `scales`: [blocks * n], where the source asks for kE4M3.
void PackMatrix(const PackedMatrix::Source& source, void* destination, float* scales,
                ThreadPool& pool);
void MatMul(const MatMulParams& params, ThreadPool& pool);
void Embedding(const EmbeddingParams& params, ThreadPool& pool);

void RmsNorm(const RmsNormParams& params, ThreadPool& pool);
void GatedActivation(const GatedActivationParams& params, ThreadPool& pool);
void Softcap(const SoftcapParams& params, ThreadPool& pool);

void CausalConv1d(const CausalConv1dParams& params, ThreadPool& pool);
void RgLru(const RgLruParams& params, ThreadPool& pool);

void RopeTable(const RopeTableParams& params, ThreadPool& pool);
void Rope(const RopeParams& params, ThreadPool& pool);
void WindowAttention(const WindowAttentionParams& params, ThreadPool& pool);

}  // namespace reprise::kernels::cpu

#endif  // REPRISE_KERNELS_CPU_CPU_H_
