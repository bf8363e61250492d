// sgd_update: one step of momentum SGD on the affine vector, or none at all.
//
// Meaning: reference.sgd_update. check_gradient runs first, since a single bad number anywhere
// keeps every parameter where it is; em_reduce has cleared its mark.
//
// Grid: ceil(P / block).

#include "burst.cuh"

extern "C" __global__ void check_gradient(Burst burst, const float* gradient) {
    const int p = blockIdx.x * blockDim.x + threadIdx.x;
    if (p < burst.parameters && !isfinite(gradient[p])) burst.counters->not_finite = 1;
}

extern "C" __global__ void sgd_update(Burst burst, const float* gradient) {
    const int p = blockIdx.x * blockDim.x + threadIdx.x;
    const Settings settings = *burst.settings;
    Counters& counters = *burst.counters;
    const bool moves = counters.selected > 0 && !counters.not_finite;
    if (moves && p < burst.parameters) {
        const float unscale = 1.0f / (settings.loss_scale * counters.selected);
        float velocity = settings.momentum * burst.velocity[p] + gradient[p] * unscale;
        if (settings.fisher_weight > 0) {  // reference.fisher_pull
            velocity += 2 * settings.fisher_weight * burst.fisher[p] *
                        (burst.affine[p] - burst.deployed[p]);
        }
        burst.velocity[p] = velocity;
        burst.affine[p] -= settings.learning_rate * velocity;
    }
    if (p == 0) {  // no other thread reads what this one writes
        if (counters.step < burst.steps) burst.traces[counters.step].moved = moves;
        if (counters.selected > 0) counters.have_mean = 1;
        counters.step += 1;
    }
}
