// The burst around the steps: its start, the window's table, and how far it moved.

#include "burst.cuh"

// Start a burst. Grid: ceil(P / block).
extern "C" __global__ void reset_burst(Burst burst, Settings settings) {
    const int p = blockIdx.x * blockDim.x + threadIdx.x;
    if (p < burst.parameters) {
        burst.affine[p] = burst.deployed[p];
        burst.velocity[p] = 0;
    }
    if (p == 0) {
        *burst.settings = settings;
        *burst.counters = Counters{};
    }
}

// Start again from the deployed parameters, within a burst. Grid: ceil(P / block).
extern "C" __global__ void restart_burst(Burst burst) {
    const int p = blockIdx.x * blockDim.x + threadIdx.x;
    if (p < burst.parameters) {
        burst.affine[p] = burst.deployed[p];
        burst.velocity[p] = 0;
    }
    if (p == 0) burst.counters->have_mean = 0;
}

// The next batch of a column goes after this one. One thread.
extern "C" __global__ void advance_window(Burst burst, int mode, int batch) {
    burst.counters->recorded[mode] += batch;
}

// Twice the average rank of each initial confidence, from 1, as edgewf.flips.rank_weights ranks
// them: that is 2 (number below) + (number equal, itself included) + 1. NaN ranks highest.
// Grid: ceil(N / block) x 2, one row a column of the table.
extern "C" __global__ void rank_weights(Burst burst) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const int column = blockIdx.y;
    const float* confidence = burst.confidence + column * burst.window;
    const int recorded = burst.counters->recorded[column];
    const int frames = recorded < burst.window ? recorded : burst.window;
    if (i >= frames) return;
    const float own = confidence[i];
    int below = 0;
    int equal = 0;
    for (int j = 0; j < frames; ++j) {
        const float other = confidence[j];
        const bool both_nan = own != own && other != other;
        below += other < own || (own != own && other == other);
        equal += other == own || both_nan;
    }
    burst.twice_rank[column * burst.window + i] = 2 * below + equal + 1;
}

// L2 distance of the affine vector from the deployed one. One block of 1024 threads, whose sum
// runs in a fixed order.
extern "C" __global__ void __launch_bounds__(1024) affine_change(Burst burst) {
    __shared__ double sums[1024];
    double sum = 0;
    for (int p = threadIdx.x; p < burst.parameters; p += 1024) {
        const double change = double(burst.affine[p]) - burst.deployed[p];
        sum += change * change;
    }
    sums[threadIdx.x] = sum;
    for (unsigned half = 512; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) burst.counters->affine_change = sqrt(sums[0]);
}
