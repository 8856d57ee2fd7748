#include "tests/fuzz/fake_redis.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>

#include "state_store/chunking.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/chunk_table.h"
#include "state_store/redis/store_scripts.h"
#include "state_store/testing/builders.h"

namespace reprise::state_store::redis {
namespace {

std::string Bulk(std::string_view text) { return Cat("$", text.size(), "\r\n", text, "\r\n"); }
std::string Integer(uint64_t value) { return Cat(":", static_cast<int64_t>(value), "\r\n"); }
std::string Nil() { return "$-1\r\n"; }
std::string Array(const std::vector<std::string>& elements) {
  std::string out = Cat("*", elements.size(), "\r\n");
  for (const std::string& element : elements) out += element;
  return out;
}

bool SendAll(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

}  // namespace

FakeRedis::FakeRedis() : path_(Cat("/tmp/reprise-fuzz-", getpid())) {
  listening_ = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
  unlink(path_.c_str());
  if (bind(listening_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listening_, 16) != 0) {
    std::abort();
  }
  std::thread([this] { Run(); }).detach();
}

void FakeRedis::Feed(std::string_view bytes) {
  absl::MutexLock lock(&mutex_);
  bytes_ = bytes;
  at_ = 0;
  head_.clear();
  chunks_.clear();
}

// One thread for all connections: a new one for each would take most of the time.
void FakeRedis::Run() {
  // A command is an array of strings, as a reply may be.
  std::map<int, std::unique_ptr<ReplyReader>> readers;
  for (;;) {
    std::vector<pollfd> sockets = {{listening_, POLLIN, 0}};
    for (const auto& [socket, reader] : readers) sockets.push_back({socket, POLLIN, 0});
    if (poll(sockets.data(), sockets.size(), -1) <= 0) continue;
    for (size_t i = 1; i < sockets.size(); ++i) {
      const int socket = sockets[i].fd;
      if (sockets[i].revents == 0 || Serve(socket, *readers.at(socket))) continue;
      close(socket);
      readers.erase(socket);
    }
    if (sockets[0].revents == 0) continue;
    const int socket = accept(listening_, nullptr, nullptr);
    if (socket >= 0) readers.emplace(socket, std::make_unique<ReplyReader>(64 << 20));
  }
}

bool FakeRedis::Serve(int socket, ReplyReader& reader) {
  char buffer[1 << 16];
  const ssize_t size = read(socket, buffer, sizeof(buffer));
  if (size <= 0 || !reader.Feed({buffer, static_cast<size_t>(size)}).ok()) return false;
  std::string out;
  bool end = false;
  while (!end) {
    auto command = reader.Next();
    if (!command.ok()) end = true;
    if (!command.ok() || !command->has_value()) break;
    Command arguments;
    for (Reply& element : (*command)->elements) arguments.push_back(std::move(element.text));
    if (!arguments.empty()) out += Answer(arguments, &end);
  }
  return SendAll(socket, out) && !end;
}

std::string FakeRedis::Answer(const Command& command, bool* end) {
  absl::MutexLock lock(&mutex_);
  if (at_ >= bytes_.size()) return "-ERR nothing is left\r\n";
  switch (Byte() % 16) {
    case 0:
      *end = true;
      return Text();
    case 1:
      return Any(0);
    default:
      return Shaped(command);
  }
}

std::string FakeRedis::Any(int depth) {
  switch (Byte() % (depth < 3 ? 8 : 6)) {
    case 0:
      return Nil();
    case 1:
      return Integer(Number());
    case 2:
      return Bulk(Text());
    case 3:
      return Cat("+", Byte() % 2 == 0 ? "OK" : "fenced", "\r\n");
    case 4:
      return Cat("-", Byte() % 2 == 0 ? "ERR x" : "NOSCRIPT x", "\r\n");
    case 5:
      return Bulk("0");
    default: {
      std::vector<std::string> elements(Byte() % 6);
      for (std::string& element : elements) element = Any(depth + 1);
      return Array(elements);
    }
  }
}

std::string FakeRedis::Shaped(const Command& command) {
  const std::string& name = command[0];
  const std::string key = command.size() > 1 ? command[1] : "";
  if (name == "EVALSHA" && command.size() > 3) return OfScript(command);
  if (name == "HGET" && command.size() > 2) {
    if (const auto chunk = chunks_.find(key); chunk != chunks_.end()) return Bulk(chunk->second);
    return Value(key, command[2]);
  }
  if (name == "HGETALL") {
    std::vector<std::string> pairs;
    for (const std::string& field :
         {std::string("rev"), std::string("r"), ManifestField(Id()), ManifestField(Id()),
          std::string("f"), RequestField(RequestKind::kCommit, Id())}) {
      if (Byte() % 4 == 0) continue;
      pairs.push_back(Bulk(field));
      pairs.push_back(Value(key, field));
    }
    return Array(pairs);
  }
  if (name == "HMGET") return Array({Bulk(Plain("n")), Bulk(Plain("n"))});
  if (name == "ZRANGE") return at_ % 2 == 0 ? Array({Bulk("a"), Bulk("b")}) : Array({});
  if (name == "SMEMBERS") return Array({Bulk(Cat(Byte() % 8, ":", std::string(64, 'a')))});
  if (name == "HKEYS") return Array({Bulk("rev"), Bulk("r"), Bulk(ManifestField(Id()))});
  if (name == "TIME") return Array({Bulk(Plain("n")), Bulk(Plain("n"))});
  if (name == "GET") return Bulk(Text());
  if (name == "SCAN" || name == "SSCAN") {
    std::vector<std::string> items(Byte() % 3);
    for (std::string& item : items) {
      item = Bulk(name == "SSCAN"         ? Tenant()
                  : Byte() % 3 == 0       ? Text()
                  : command[3][10] == 's' ? keys_.Session(Tenant(), "a")
                  : command[3][10] == 'h' ? keys_.Hold(Tenant(), Id())
                                          : keys_.Chunk(Tenant(), Sha256(Id())));
    }
    return Array({Bulk(Byte() % 4 == 0 ? "1" : "0"), Array(items)});
  }
  if (name == "HSCAN") {
    const std::string field = RequestField(RequestKind::kCreate, Id());
    const std::string value = Value(key, field);
    return Array({Bulk(Byte() % 4 == 0 ? "1" : "0"), Array({Bulk(field), value})});
  }
  return Byte() % 4 == 0 ? std::string("+OK\r\n") : Integer(Number());
}

std::string FakeRedis::OfScript(const Command& command) {
  const std::string& sha = command[1];
  const std::string& key = command[3];
  const auto keys = static_cast<size_t>(std::atoi(command[2].c_str()));
  const Command arguments(command.begin() + 3 + std::min(keys, command.size() - 3), command.end());
  if (sha == kReadSession.sha1()) {
    std::vector<std::string> values;
    for (const std::string& field : arguments) values.push_back(Value(key, field));
    return Array(values);
  }
  if (sha == kApplySession.sha1() || sha == kCommit.sha1() || sha == kLease.sha1()) {
    constexpr const char* kWords[] = {"ok",     "ok",     "same",   "conflict", "stale", "leased",
                                      "fenced", "chunks", "absent", "released", "7"};
    const std::string word = kWords[Byte() % std::size(kWords)];
    const std::string field = ManifestField(Id());
    if (word == "ok") return Array({Bulk(word), Bulk(field), Value(key, field)});
    return Array({Bulk(word), Bulk(Plain("n")), Bulk(Plain("n"))});
  }
  if (sha == kSealChunk.sha1() || sha == kPutChunk.sha1() || sha == kPinChunk.sha1()) {
    const std::string header = Byte() % 4 == 0        ? Text()
                               : arguments.size() > 2 ? arguments[2]
                                                      : ChunkTable::HeaderOf(key, ChunkRef{});
    return Array({Integer(Byte() % 4 != 0), Bulk(header), Bulk(Plain("n")), Integer(Number()),
                  Integer(Number())});
  }
  if (sha == kInspectChunk.sha1()) {
    ChunkRef ref;
    ref.raw_length = ref.stored_length = static_cast<uint32_t>(Number());
    return Array({Bulk(Byte() % 4 == 0 ? Text() : ChunkTable::HeaderOf(key, ref)),
                  Integer(Number()), Bulk(Plain("n")), Integer(Byte() % 2), Bulk(Id()),
                  Bulk(Plain("stamp"))});
  }
  if (sha == kCompareAndSetField.sha1() && arguments.size() == 3) {
    return Array({Integer(Byte() % 2), Bulk(arguments[2])});
  }
  return Array({Integer(Number()), Bulk(Plain("n"))});
}

std::string FakeRedis::Plain(const std::string& field) {
  const uint8_t how = Byte();
  if (how % 8 == 0) return Text();
  if (field == "stamp") return Cat(Number(), " a");
  return Cat(how % 8 == 1 ? Number() : uint64_t{1'700'000'000});
}

std::string FakeRedis::Value(const std::string& key, const std::string& field) {
  const uint8_t how = Byte() % 16;
  if (how == 0) return Nil();
  if (how == 1) return Bulk(Text());
  std::string name = field, value;
  if (how == 2) {
    value = Text();
  } else if (field == "r") {
    value = MakeRecord();
  } else if (field == "@head" || field.substr(0, 2) == "m:") {
    name = field == "@head" ? ManifestField(head_) : field;
    value = MakeManifest(name.substr(2));
  } else if (field.substr(0, 2) == "q:") {
    value = MakeRequest(field);
  } else if (field == "f") {
    value = EncodeSession(MakeSession()).value_or("");
  } else {
    return Bulk(Plain(field));
  }
  if (how == 3 && !value.empty()) value[Byte() % value.size()] = static_cast<char>(Byte());
  return Bulk(Seal(key, name, value));
}

Session FakeRedis::MakeSession() {
  Session session;
  session.tenant = Tenant();
  session.id = Byte() % 8 == 0 ? "b" : "a";
  session.version = Number();
  if (Byte() % 4 != 0) session.head_snapshot_id = Id();
  session.position = Number();
  session.token_count = Number();
  if (Byte() % 2 == 0) session.model_id = "test-model";
  session.created = session.updated = absl::FromUnixMicros(1'700'000'000'000'000);
  if (Byte() % 8 == 0) session.expires = absl::FromUnixMicros(static_cast<int64_t>(Number()));
  if (Byte() % 4 == 0) {
    session.parent_session_id = "b";
    session.parent_snapshot_id = Id();
  }
  return session;
}

std::string FakeRedis::MakeRecord() {
  SessionRecord record;
  record.session = MakeSession();
  record.holds_origin = Byte() % 4 == 0;
  record.uid = std::string(32, 'c');
  record.next_order = Number();
  for (int i = Byte() % 4; i > 0; --i) {
    record.snapshots.push_back({Number(), Id(), Byte() % 2 == 0, {Id(), Id()}});
  }
  for (int i = Byte() % 3; i > 0; --i) {
    record.requests.push_back({static_cast<RequestKind>(Byte() % 7), Number(), Id()});
  }
  head_ = record.session.head_snapshot_id;
  return EncodeRecord(record).value_or("");
}

std::string FakeRedis::MakeManifest(const std::string& id) {
  Snapshot snapshot = MakeTestSnapshot(Byte() % 3, 40);
  SnapshotManifest& manifest = snapshot.manifest;
  manifest.tenant = Tenant();
  manifest.snapshot_id = Byte() % 8 == 0 ? Id() : id;
  if (Byte() % 4 == 0) manifest.parent_snapshot_id = Id();
  for (size_t p = 0; p < manifest.parts.size(); ++p) {
    const std::string& bytes = snapshot.payloads[p];
    ChunkRef ref;
    ref.digest = ChunkDigest("t", bytes);
    ref.raw_length = ref.stored_length = static_cast<uint32_t>(bytes.size());
    ref.checksum = Checksum64(bytes);
    const uint8_t change = Byte();
    if (change % 8 == 0) ref.stored_length = static_cast<uint32_t>(Number());
    if (change % 8 == 1) ref.codec = ChunkCodec::kZstd;
    if (change % 8 == 2) ref.checksum = Number();
    if (change % 8 == 3) manifest.parts[p].dtype = "bf16+f32";
    manifest.parts[p].chunks = {ref};
    chunks_[keys_.Chunk("t", ref.digest)] = bytes;
  }
  manifest.position = Number();
  manifest.token_count = manifest.position + Byte() % 3;
  return EncodeManifest(manifest).value_or("");
}

std::string FakeRedis::MakeRequest(const std::string& field) {
  RequestRecord request;
  request.kind = Byte() % 8 == 0 ? RequestKind::kRewind
                                 : static_cast<RequestKind>(field.size() > 2 ? field[2] - '0' : 1);
  request.request_id = field.size() > 4 ? field.substr(4) : "";
  request.session_id = Byte() % 8 == 0 ? "b" : "a";
  request.argument = Byte() % 4 == 0 ? Text() : "";
  request.time = absl::FromUnixMicros(Byte() % 2 == 0 ? 4'000'000'000'000'000
                                                      : static_cast<int64_t>(Number()));
  request.result = MakeSession();
  return EncodeRequest("t", request).value_or("");
}

uint8_t FakeRedis::Byte() {
  return at_ < bytes_.size() ? static_cast<uint8_t>(bytes_[at_++]) : uint8_t{0};
}

uint64_t FakeRedis::Number() {
  const uint8_t first = Byte();
  if (first < 0xF0) return first % 8;
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value = value << 8 | Byte();
  return value;
}

std::string FakeRedis::Text() {
  std::string text(Byte() % 64, '\0');
  for (char& c : text) c = static_cast<char>(Byte());
  return text;
}

std::string FakeRedis::Id() { return std::string(32, static_cast<char>('a' + Byte() % 3)); }

std::string FakeRedis::Tenant() { return Byte() % 8 == 0 ? "u" : "t"; }

}  // namespace reprise::state_store::redis
