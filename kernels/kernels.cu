// Everything a burst runs, as one module.

#include "em_objective.cu"
#include "em_reduce.cu"
#include "sgd_update.cu"
#include "window.cu"
