// em_reduce: what a step's batch comes to, from the rows that em_objective left.
//
// Meaning: reference.em_reduce. Sums run in an order that depends on nothing but the sizes, so two
// runs give the same bits. A block of 32 x 32 threads takes 32 classes; each counts the selected
// samples for itself, and the first also writes the trace. Without a redundancy margin nobody
// reads the running mean, and it is left alone.
//
// Grid: ceil(K / 32).

#include "burst.cuh"
#include "rows.cuh"

constexpr int TILE = 32;

// Sum of one number a thread, in the block's first thread.
__device__ inline double block_sum(double x) {
    __shared__ double sums[TILE * TILE];
    const int thread = threadIdx.y * TILE + threadIdx.x;
    sums[thread] = x;
    for (int half = TILE * TILE / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) sums[thread] += sums[thread + half];
    }
    return sums[0];
}

// Probability of class k, summed over the selected samples, in the first row of threads.
template <class Logit>
__device__ float class_sum(const Burst& burst, const Logit* logits, int batch, int k) {
    __shared__ float sums[TILE][TILE];
    float sum = 0;
    for (int i = threadIdx.y; i < batch && k < burst.classes; i += TILE) {
        if (burst.row_admitted[i] == SELECTED) {
            const float logit = to_float(logits[(long long)i * burst.classes + k]);
            sum += exp_of(logit - burst.row_max[i]) * burst.row_scale[i];
        }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    for (int y = 1; y < TILE && threadIdx.y == 0; ++y) sum += sums[y][threadIdx.x];
    return sum;
}

template <class Logit>
__device__ void reduce(const Burst& burst, const Logit* logits, int batch) {
    const int thread = threadIdx.y * TILE + threadIdx.x;
    int reliable = 0;
    int selected = 0;
    double entropy = 0;
    for (int start = 0; start < batch; start += TILE * TILE) {
        const int i = start + thread;
        const int admitted = i < batch ? burst.row_admitted[i] : NEITHER;
        reliable += __syncthreads_count(admitted != NEITHER);
        selected += __syncthreads_count(admitted == SELECTED);
        entropy += i < batch ? burst.row_entropy[i] : 0.0f;
    }
    if (blockIdx.x == 0) {
        entropy = block_sum(entropy);
        if (thread == 0) {
            burst.counters->selected = selected;
            burst.counters->not_finite = 0;
            const int step = burst.counters->step;
            if (step < burst.steps) {  // BurstKernels.read reports it
                burst.traces[step] = Trace{entropy, batch, reliable, selected, 0};
            }
        }
    }
    if (selected > 0 && burst.settings->redundancy_margin < infinity()) {
        const int k = blockIdx.x * TILE + threadIdx.x;
        const float mean = class_sum(burst, logits, batch, k) / selected;
        if (threadIdx.y == 0 && k < burst.classes) {
            const bool have = burst.counters->have_mean;
            burst.mean[k] =
                have ? EM_MEAN_DECAY * burst.mean[k] + (1 - EM_MEAN_DECAY) * mean : mean;
        }
    }
}

extern "C" __global__ void __launch_bounds__(TILE * TILE)
    em_reduce(Burst burst, const EM_LOGITS* logits, int batch) {
    reduce(burst, logits, batch);
}
