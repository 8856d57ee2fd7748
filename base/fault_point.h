// Named steps at which a test may kill the process, or let something fail: builds with
// REPRISE_FAULT_POINTS only, in which
//
//   REPRISE_FAULT_POINT=redis.commit.stored:2 reprised ...
//
// dies by SIGKILL when it comes to that step for the second time (without a number: the first), and
//
//   REPRISE_FAULT_POINT=device.step.end:2 reprised ...
//
// goes on without its device. In other builds REPRISE_FAULT_POINT(name) is nothing at all, and
// REPRISE_FAULT(name) is false.
#ifndef REPRISE_BASE_FAULT_POINT_H_
#define REPRISE_BASE_FAULT_POINT_H_

#include <functional>
#include <string>

#ifdef REPRISE_FAULT_POINTS
#define REPRISE_FAULT_POINT(name) ::reprise::ReachFaultPoint(name)
#define REPRISE_FAULT(name) ::reprise::FaultIsDue(name)
#else
#define REPRISE_FAULT_POINT(name) static_cast<void>(0)
#define REPRISE_FAULT(name) (static_cast<void>(name), false)
#endif

namespace reprise {

// All are thread-safe, and there in builds with REPRISE_FAULT_POINTS only.
void ReachFaultPoint(const char* name);
// Whether this is the step that was chosen, for the time that was chosen.
bool FaultIsDue(const char* name);
// Chooses as the environment does, for tests that are the process themselves; "" chooses none. With
// an `action` that is what happens, on the thread that comes there, instead of SIGKILL.
void ChooseFaultPoint(const std::string& choice, std::function<void()> action = nullptr);

}  // namespace reprise

#endif  // REPRISE_BASE_FAULT_POINT_H_
