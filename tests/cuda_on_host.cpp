// kernels/kernels.cu for the host, with one function to launch its kernels by name, and a few to
// look at single numbers and structures.

#include "cuda_on_host.hpp"

#include "kernels.cu"

#include <cstddef>

#define ENTRY(name) \
    if (!strcmp(kernel, #name)) call = host::Call<name>::run

extern "C" int launch(const char* kernel, unsigned grid_x, unsigned grid_y, unsigned block_x,
                      unsigned block_y, const unsigned char* arguments, size_t bytes,
                      int backwards) {
    void (*call)() = nullptr;
    ENTRY(reset_burst);
    ENTRY(restart_burst);
    ENTRY(em_objective);
    ENTRY(advance_window);
    ENTRY(em_reduce);
    ENTRY(check_gradient);
    ENTRY(sgd_update);
    ENTRY(rank_weights);
    ENTRY(affine_change);
    if (call == nullptr) return 1;
    host::arguments = arguments;
    host::argument_bytes = bytes;
    host::launch(call, {grid_x, grid_y, 1}, {block_x, block_y, 1}, backwards);
    return 0;
}

extern "C" float float_of_half(unsigned short bits) { return to_float(Half{bits}); }
extern "C" float float_of_bfloat16(unsigned short bits) { return to_float(BFloat16{bits}); }

extern "C" unsigned short half_of_float(float x) {
    Half y;
    from_float(x, y);
    return y.bits;
}

extern "C" unsigned short bfloat16_of_float(float x) {
    BFloat16 y;
    from_float(x, y);
    return y.bits;
}

#define SIZE(structure) \
    if (!strcmp(name, #structure)) return sizeof(structure)
#define OFFSET(structure, member) \
    if (!strcmp(name, #structure "." #member)) return offsetof(structure, member)

// Size of a structure, or offset of a member.
extern "C" long layout(const char* name) {
    SIZE(Settings);
    SIZE(Counters);
    SIZE(Trace);
    SIZE(Burst);
    OFFSET(Settings, entropy_margin);
    OFFSET(Settings, redundancy_margin);
    OFFSET(Settings, learning_rate);
    OFFSET(Settings, momentum);
    OFFSET(Settings, loss_scale);
    OFFSET(Settings, weighted);
    OFFSET(Settings, fisher_weight);
    OFFSET(Counters, recorded);
    OFFSET(Counters, step);
    OFFSET(Counters, selected);
    OFFSET(Counters, not_finite);
    OFFSET(Counters, have_mean);
    OFFSET(Counters, flips);
    OFFSET(Counters, weighted_flips);
    OFFSET(Counters, affine_change);
    OFFSET(Trace, entropy);
    OFFSET(Trace, samples);
    OFFSET(Trace, reliable);
    OFFSET(Trace, selected);
    OFFSET(Trace, moved);
    OFFSET(Burst, counters);
    OFFSET(Burst, traces);
    OFFSET(Burst, label);
    OFFSET(Burst, confidence);
    OFFSET(Burst, flipped);
    OFFSET(Burst, settings);
    OFFSET(Burst, affine);
    OFFSET(Burst, deployed);
    OFFSET(Burst, velocity);
    OFFSET(Burst, fisher);
    OFFSET(Burst, mean);
    OFFSET(Burst, twice_rank);
    OFFSET(Burst, row_max);
    OFFSET(Burst, row_scale);
    OFFSET(Burst, row_entropy);
    OFFSET(Burst, row_admitted);
    OFFSET(Burst, classes);
    OFFSET(Burst, parameters);
    OFFSET(Burst, window);
    OFFSET(Burst, steps);
    return -1;
}
