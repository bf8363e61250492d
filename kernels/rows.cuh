// The arithmetic of one row of logits, for device and host. reference.py says what is right.
//
// A row is summed up in one pass, piece by piece, and pieces combine in any order (online softmax:
// Milakov and Gimelshein, 2018). With s_k = logit_k - max, e_k = exp(s_k):
//
//     total = sum e            p_k = e_k / total         mu = sum p s <= 0
//     H = log total - mu       log p_k + H = s_k - mu
//
// so the gradient -w p (log p + H) is -w p (s - mu), without the difference of nearly equal numbers
// that log p + H is for a certain sample. For the same reason `total` is kept as 1 + rest: the
// largest logit's own e is exactly 1, and log1p(rest) keeps every digit of an entropy near 0.

#pragma once

#include "numbers.cuh"

constexpr float LOG2_E = 1.44269504088896341f;
constexpr int NO_LABEL = 0x7fffffff;

EDGEWF_BOTH float infinity() { return float_of_bits(0x7f800000u); }

// exp(x) for x <= 0, to about 2 + |x| units in the last place; below 2^-126 it may be 0.
EDGEWF_BOTH float exp_of(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * LOG2_E));
    return y;
#else
    return exp2f(x * LOG2_E);
#endif
}

// exp is 0 from here on, and 0 * -inf would be NaN.
EDGEWF_BOTH float clamped(float s) { return fmaxf(s, -128.0f); }

// A piece of a row. A piece without finite logits has max -inf, and weighs nothing once combined.
struct Piece {
    float max;          // NaN never wins
    int label;          // where it is, the lowest index of several
    float rest;         // sum of e without the label's; NaN if a logit is
    float slope;        // sum of e * s
    float dot;          // sum of e * m, m the running mean
    float square;       // sum of e * e
    float mean_square;  // sum of m * m
};

// Which elements a thread holds: chunks of WIDTH, dealt out in turn to LANES threads. A row that
// begins `lead` elements after a chunk does has that many less in its first one.
template <int WIDTH, int LANES>
struct Deal {
    int lane;
    int lead;

    EDGEWF_BOTH int start(int chunk) const { return (chunk * LANES + lane) * WIDTH - lead; }
};

// Sum up what one thread holds, chunk `first` of the row and those after it. `mean` is read only
// with MEAN.
template <bool MEAN, int CHUNKS, int WIDTH, int LANES>
EDGEWF_BOTH Piece piece_of(const float (&x)[CHUNKS][WIDTH], int first, Deal<WIDTH, LANES> deal,
                           const float* mean, int K) {
    Piece piece{-infinity(), NO_LABEL, 0, 0, 0, 0, 0};
    int slot = -1;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            if (x[c][i] > piece.max) {
                piece.max = x[c][i];
                slot = c * WIDTH + i;
            }
        }
    }
    if (slot >= 0) piece.label = deal.start(first + slot / WIDTH) + slot % WIDTH;
    const float base = slot >= 0 ? piece.max : 0.0f;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        float m[WIDTH];
        if (MEAN) load(mean, deal.start(first + c), K, deal.lead == 0, 0.0f, m);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            const float s = x[c][i] - base;
            const float e = exp_of(s);
            piece.rest += c * WIDTH + i == slot ? 0.0f : e;
            piece.slope += e * clamped(s);
            if (MEAN) {
                piece.dot += e * m[i];
                piece.square += e * e;
                piece.mean_square += m[i] * m[i];
            }
        }
    }
    return piece;
}

// Two pieces as one. The order of the arguments makes no difference, not even in rounding.
EDGEWF_BOTH Piece combined(const Piece& a, const Piece& b) {
    const bool first = a.max > b.max || (a.max == b.max && a.label < b.label);
    const float d = a.max == b.max ? 0.0f : -fabsf(a.max - b.max);
    const float shrink = exp_of(d);  // of the piece with the lower maximum
    const float total = 1.0f + (first ? b.rest : a.rest);
    Piece sum;
    sum.max = first ? a.max : b.max;
    sum.label = first ? a.label : b.label;
    sum.rest = (first ? a.rest : b.rest) + total * shrink;
    sum.slope = (first ? a.slope : b.slope) +
                ((first ? b.slope : a.slope) + total * clamped(d)) * shrink;
    sum.dot = (first ? a.dot : b.dot) + (first ? b.dot : a.dot) * shrink;
    sum.square = (first ? a.square : b.square) + (first ? b.square : a.square) * shrink * shrink;
    sum.mean_square = a.mean_square + b.mean_square;
    return sum;
}

// What a whole row says.
struct Row {
    int label;
    float max;
    float scale;    // p = exp(logit - max) * scale; of the label that is `scale`, its confidence
    float entropy;  // NaN for a row that has a NaN or an infinite maximum; so is `scale`
    float mu;
    float cosine;  // of p with the running mean
};

EDGEWF_BOTH Row row_of(const Piece& piece) {
    const float rest = piece.rest + (piece.max - piece.max);  // NaN where the maximum is infinite
    Row row;
    row.label = piece.label == NO_LABEL ? 0 : piece.label;
    row.max = piece.max;
    row.scale = 1.0f / (1.0f + rest);
    row.mu = piece.slope * row.scale;
    row.entropy = log1pf(rest) - row.mu;
    // The floor is that of torch.nn.functional.cosine_similarity.
    const float norms = sqrtf(piece.square) * row.scale * sqrtf(piece.mean_square);
    row.cosine = piece.dot * row.scale / fmaxf(norms, 1e-8f);
    return row;
}

// The weight of each e_k (s_k - mu) in the gradient: -w / total, times the loss scale.
EDGEWF_BOTH float gradient_factor(const Row& row, float entropy_margin, bool weighted,
                                  float loss_scale) {
    const float weight = weighted ? expf(entropy_margin - row.entropy) : 1.0f;
    return -weight * row.scale * loss_scale;
}

EDGEWF_BOTH float gradient(const Row& row, float factor, float logit) {
    const float s = logit - row.max;
    return factor * exp_of(s) * (clamped(s) - row.mu);
}
