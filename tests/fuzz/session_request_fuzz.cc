// Requests about sessions from anyone: refused with a reason, or such that the store takes them.
// The first byte chooses.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "reprise/v1/session.pb.h"
#include "service/environment.h"
#include "service/errors.h"
#include "service/served_model.h"
#include "service/session_messages.h"
#include "state_store/memory_store.h"

namespace reprise::service {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckRefusal(const absl::Status& status) {
  Require(absl::IsInvalidArgument(status) || absl::IsNotFound(status));
  Require(ReasonOf(status) != v1::ERROR_REASON_UNSPECIFIED);
}

// Without models, which are asked for by name only.
const Environment& ForTest() {
  static ModelRegistry& models = *new ModelRegistry({});
  static const Environment& environment = *[] {
    auto made = std::make_unique<Environment>();
    made->models = &models;
    return made.release();
  }();
  return environment;
}

template <typename Request>
bool Parse(const uint8_t* data, size_t size, Request* request) {
  return request->ParseFromArray(data, static_cast<int>(size));
}

void FuzzCreate(const uint8_t* data, size_t size) {
  v1::CreateSessionRequest request;
  if (!Parse(data, size, &request)) return;
  const auto options = ReadNewSession(request, ForTest());
  if (!options.ok()) return CheckRefusal(options.status());
  const auto store = state_store::CreateMemoryStore({}).value();
  const auto made = store->CreateSession("t", *options);
  Require(made.ok() && made->expires > made->created);
  const auto again = store->CreateSession("t", *options);
  Require(options->request_id.empty() ? options->id.empty() == again.ok()
                                      : again.ok() && *again == *made);
  const v1::Session described = DescribeSession(store.get(), *made).value();
  for (const auto& time : {described.create_time(), described.expire_time()}) {
    Require(time.seconds() >= 0 && time.seconds() <= 253'402'300'799);  // the year 9999
    Require(time.nanos() >= 0 && time.nanos() < 1'000'000'000);
  }
  Require(described.SerializeAsString().size() < (1 << 20));
}

void FuzzPage(const uint8_t* data, size_t size) {
  v1::ListSessionsRequest request;
  if (!Parse(data, size, &request)) return;
  const auto page = ReadPage(request.page_size(), request.page_token());
  if (!page.ok()) return CheckRefusal(page.status());
  const auto store = state_store::CreateMemoryStore({}).value();
  Require(store->CreateSession("t", {.id = "a"}).ok());
  // No token from outside is one of this store's.
  Require(store->ListSessions("t", *page).ok() == page->page_token.empty());
  const auto snapshots = store->ListSnapshots("t", "a", *page);
  Require(snapshots.ok() == page->page_token.empty());
}

void FuzzUpdate(const uint8_t* data, size_t size) {
  v1::UpdateSessionRequest request;
  if (!Parse(data, size, &request)) return;
  FieldViolations violations;
  CheckLabels(request.labels(), "labels", &violations);
  const absl::Duration ttl = ReadTtl(request.ttl(), "ttl", &violations);
  if (const absl::Status status = violations.ToStatus(); !status.ok()) return CheckRefusal(status);
  const auto store = state_store::CreateMemoryStore({}).value();
  Require(store->CreateSession("t", {.id = "a"}).ok());
  state_store::SessionUpdate update;
  update.ttl = ttl;
  update.labels.emplace(request.labels().begin(), request.labels().end());
  Require(store->UpdateSession("t", "a", update).ok());
}

constexpr void (*kReaders[])(const uint8_t*, size_t) = {FuzzCreate, FuzzPage, FuzzUpdate};

}  // namespace
}  // namespace reprise::service

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace reprise::service;
  if (size > 0) kReaders[data[0] % std::size(kReaders)](data + 1, size - 1);
  return 0;
}
