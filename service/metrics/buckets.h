// Upper edges of the histograms, in seconds or rows. Edges that vLLM's metrics have are here too,
// so that queries written for those find them.
#ifndef REPRISE_SERVICE_METRICS_BUCKETS_H_
#define REPRISE_SERVICE_METRICS_BUCKETS_H_

#include <vector>

namespace reprise::service::buckets {

using Edges = std::vector<double>;

inline Edges FirstToken() {
  return {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
          1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
}

// Small models decode a token in less than a millisecond.
inline Edges TokenGap() {
  return {.0005, .001, .002, .004, .006, .008, .01, .025, .05, .075, .1, .15, .2,
          .3,    .4,   .5,   .75,  1,    2.5,  5,   7.5,  10,  20,   40, 80};
}

// Parts of a request's life.
inline Edges Request() {
  return {.001, .0025, .005, .01, .025, .05, .1, .2, .3,  .5,  .8,  1,   1.5,  2,   2.5,
          5,    10,    15,   20,  30,   40,  50, 60, 120, 240, 480, 960, 1920, 7680};
}

inline Edges Step() {
  return {.00005, .0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5};
}

inline Edges Rows() { return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}; }

// Moves of states, calls of the store, calls over the wire.
inline Edges Call() {
  return {.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60};
}

}  // namespace reprise::service::buckets

#endif  // REPRISE_SERVICE_METRICS_BUCKETS_H_
