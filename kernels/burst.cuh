// What one burst keeps on the device. layout.py has the same structures in NumPy.

#pragma once

// What em_objective does with a batch; the first three are columns of the window's table.
enum Mode { DEPLOYED, BEFORE, AFTER, STEP };

// Which samples adapt and how far a step goes, see reference.py.
struct Settings {
    float entropy_margin;
    float redundancy_margin;
    float learning_rate;
    float momentum;
    float loss_scale;
    int weighted;
    float fisher_weight;
};

// Everything that changes while a captured graph is replayed.
struct Counters {
    int recorded[3];                       // frames in each column of the window's table
    int step;                              // steps finished
    int selected;                          // samples selected in the step under way
    int not_finite;                        // its gradient has a NaN or an infinity
    int have_mean;                         // something was selected in an earlier step
    unsigned flips[2];                     // against the labels deployed, and those before
    unsigned long long weighted_flips[2];  // their rank weights, times 2 N
    double affine_change;
};

// One step.
struct Trace {
    double entropy;  // nats, summed over the batch
    int samples;
    int reliable;
    int selected;
    int moved;
};

// How far a sample of the step's batch got through the filters.
enum Admission { NEITHER, RELIABLE, SELECTED };

// The arguments that all kernels share. N is `window`, the room for frames.
struct Burst {
    Counters* counters;
    Trace* traces;           // [steps]
    int* label;              // [3, N]
    float* confidence;       // [3, N]
    unsigned char* flipped;  // [2, N]
    Settings* settings;
    float* affine;           // [P]
    const float* deployed;   // [P]
    float* velocity;         // [P]
    const float* fisher;     // [P], only read where it has a weight
    float* mean;             // [K], running mean of selected probabilities
    int* twice_rank;         // [2, N], twice the average rank of a confidence: a whole number
    float* row_max;          // [N], of the step's batch: largest logit,
    float* row_scale;        // [N], and p = exp(logit - row_max) * row_scale
    float* row_entropy;      // [N]
    int* row_admitted;       // [N], Admission
    int classes;
    int parameters;
    int window;
    int steps;
};
