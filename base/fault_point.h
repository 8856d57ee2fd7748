// Named steps at which a test may kill the process: builds with REPRISE_FAULT_POINTS only, in which
//
//   REPRISE_FAULT_POINT=redis.commit.stored:2 reprised ...
//
// dies by SIGKILL when it comes to that step for the second time (without a number: the first). In
// other builds REPRISE_FAULT_POINT(name) is nothing at all.
#ifndef REPRISE_BASE_FAULT_POINT_H_
#define REPRISE_BASE_FAULT_POINT_H_

#ifdef REPRISE_FAULT_POINTS
#define REPRISE_FAULT_POINT(name) ::reprise::ReachFaultPoint(name)
#else
#define REPRISE_FAULT_POINT(name) static_cast<void>(0)
#endif

namespace reprise {

// Thread-safe.
void ReachFaultPoint(const char* name);

}  // namespace reprise

#endif  // REPRISE_BASE_FAULT_POINT_H_
