// em_objective: from logits [B, K] to labels and confidences, or to the gradient of the entropy.
//
// Meaning: reference.em_objective, and edgewf.flips.count_flips for the flips. A row is shared by
// LANES threads, each of which holds CHUNKS x 16 bytes of it in registers: read once, written once.
// Rows too long for that (EM_RESIDENT = 0) are read a second time for the gradient, from L2.
//
// Compiled for one pair of types and one geometry, see geometry.py and device.definitions.

#include "burst.cuh"
#include "rows.cuh"

// The piece that `lanes` neighbouring threads of a warp make together; all of them get it.
template <int LANES>
__device__ Piece warp_combined(Piece piece, bool with_mean) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        Piece other = piece;
        other.max = __shfl_xor_sync(0xffffffffu, piece.max, offset);
        other.label = __shfl_xor_sync(0xffffffffu, piece.label, offset);
        other.rest = __shfl_xor_sync(0xffffffffu, piece.rest, offset);
        other.slope = __shfl_xor_sync(0xffffffffu, piece.slope, offset);
        if (with_mean) {
            other.dot = __shfl_xor_sync(0xffffffffu, piece.dot, offset);
            other.square = __shfl_xor_sync(0xffffffffu, piece.square, offset);
            other.mean_square = __shfl_xor_sync(0xffffffffu, piece.mean_square, offset);
        }
        piece = combined(piece, other);
    }
    return piece;
}

// The same for a row's LANES threads, where they are a whole block of more than a warp.
template <int LANES>
__device__ Piece row_combined(Piece piece, bool with_mean) {
    if constexpr (LANES <= 32) {
        return warp_combined<LANES>(piece, with_mean);
    } else {
        constexpr int WARPS = LANES / 32;
        __shared__ Piece of_warp[WARPS];
        piece = warp_combined<32>(piece, with_mean);
        if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = piece;
        __syncthreads();
        return warp_combined<WARPS>(of_warp[threadIdx.x % WARPS], with_mean);
    }
}

// Put a row's label into the window's table; after the burst, compare it with both initial ones.
__device__ inline void record(const Burst& burst, int mode, int index, const Row& row) {
    const int N = burst.window;
    const int at = burst.counters->recorded[mode] + index;
    if (at >= N) return;  // BurstKernels.read reports it
    burst.label[mode * N + at] = row.label;
    burst.confidence[mode * N + at] = row.scale;
    if (mode != AFTER) return;
    for (int initial = DEPLOYED; initial <= BEFORE; ++initial) {
        const bool flipped = burst.label[initial * N + at] != row.label;
        burst.flipped[initial * N + at] = flipped;
        if (flipped) {  // whole numbers: their sum does not depend on the order
            atomicAdd(&burst.counters->flips[initial], 1u);
            atomicAdd(&burst.counters->weighted_flips[initial],
                      (unsigned long long)burst.twice_rank[initial * N + at]);
        }
    }
}

template <class Logit, class Gradient, int LANES, int CHUNKS, bool RESIDENT>
__device__ void objective(const Burst& burst, int mode, const Logit* logits, Gradient* dlogits,
                          int batch) {
    constexpr int WIDTH = 16 / sizeof(Logit);
    const int K = burst.classes;
    const int index = (blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    const bool live = index < batch;  // the others only keep their warp company
    const long long begin = (long long)index * K;
    const Deal<WIDTH, LANES> deal{int(threadIdx.x % LANES), int(begin % WIDTH)};
    const Logit* row_logits = logits + begin;
    const bool aligned = (unsigned long long)logits % 16 == 0;
    const int K_read = live ? K : 0;
    const int tiles = RESIDENT ? 1 : (K + deal.lead - 1) / (LANES * CHUNKS * WIDTH) + 1;

    float x[CHUNKS][WIDTH];
    auto read = [&](int tile) {
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            load(row_logits, deal.start(tile * CHUNKS + c), K_read, aligned, -infinity(), x[c]);
        }
    };
    read(0);  // on its way while the settings come

    const Settings settings = *burst.settings;
    const bool with_mean =
        mode == STEP && settings.redundancy_margin < infinity() && burst.counters->have_mean;
    Piece piece;
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile > 0) read(tile);
        const int first = tile * CHUNKS;
        const Piece part = with_mean ? piece_of<true>(x, first, deal, burst.mean, K)
                                     : piece_of<false>(x, first, deal, burst.mean, K);
        piece = tile == 0 ? part : combined(piece, part);
    }
    const Row row = row_of(row_combined<LANES>(piece, with_mean));
    if (!live) return;

    if (mode != STEP) {
        if (deal.lane == 0) record(burst, mode, index, row);
        return;
    }
    const bool reliable = row.entropy < settings.entropy_margin;  // not so for NaN
    const bool redundant = with_mean && !(fabsf(row.cosine) < settings.redundancy_margin);
    const bool selected = reliable && !redundant;
    if (deal.lane == 0) {
        burst.row_max[index] = row.max;
        burst.row_scale[index] = row.scale;
        burst.row_entropy[index] = row.entropy;
        burst.row_admitted[index] = selected ? SELECTED : reliable ? RELIABLE : NEITHER;
    }
    const float factor = gradient_factor(row, settings.entropy_margin, settings.weighted,
                                         settings.loss_scale);
    Gradient* row_dlogits = dlogits + begin;
    const bool aligned_out = (unsigned long long)dlogits % 16 == 0;
    for (int tile = 0; tile < tiles; ++tile) {
        if (!RESIDENT) read(tile);
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            float g[WIDTH];
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) g[i] = selected ? gradient(row, factor, x[c][i]) : 0.0f;
            store(g, row_dlogits, deal.start(tile * CHUNKS + c), K, aligned_out);
        }
    }
}

// 1024 threads a multiprocessor leave each 64 registers, which is enough not to spill.
EDGEWF_BOTH constexpr int threads_of(int lanes) { return lanes > 32 ? lanes : 128; }

extern "C" __global__ void __launch_bounds__(threads_of(EM_LANES), 1024 / threads_of(EM_LANES))
    em_objective(Burst burst, int mode, const EM_LOGITS* logits, EM_DLOGITS* dlogits, int batch) {
    objective<EM_LOGITS, EM_DLOGITS, EM_LANES, EM_CHUNKS, EM_RESIDENT>(burst, mode, logits,
                                                                        dlogits, batch);
}
