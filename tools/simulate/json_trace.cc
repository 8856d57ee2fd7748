// Our own trace format: one JSON object a line.
#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "tools/simulate/text_cursor.h"
#include "tools/simulate/trace.h"

namespace reprise::simulate {
namespace {

struct Record {
  std::optional<double> arrival, think;
  std::optional<std::string> tenant, session, parent;
  std::optional<TurnPriority> priority;
  std::optional<std::vector<std::pair<std::string, int32_t>>> prefix;
  std::optional<std::vector<int32_t>> tokens;
  std::optional<int32_t> prompt, output;
};

absl::StatusOr<int32_t> Tokens(TextCursor& cursor, const char* what, int32_t low, int32_t high) {
  ASSIGN_OR_RETURN(const int64_t value, cursor.Integer(what, low, high));
  return static_cast<int32_t>(value);
}

// Calls `element` for each element of an array.
template <typename Element>
absl::Status ParseArray(TextCursor& cursor, Element element) {
  RETURN_IF_ERROR(cursor.Expect('['));
  cursor.SkipBlanks();
  if (cursor.Take(']')) return absl::OkStatus();
  while (true) {
    cursor.SkipBlanks();
    RETURN_IF_ERROR(element());
    cursor.SkipBlanks();
    if (cursor.Take(']')) return absl::OkStatus();
    RETURN_IF_ERROR(cursor.Expect(','));
  }
}

// Calls `field(key, position)` with the cursor at the value of each field of an object.
template <typename Field>
absl::Status ParseObject(TextCursor& cursor, Field field) {
  RETURN_IF_ERROR(cursor.Expect('{'));
  cursor.SkipBlanks();
  if (cursor.Take('}')) return absl::OkStatus();
  while (true) {
    cursor.SkipBlanks();
    const size_t at = cursor.position();
    ASSIGN_OR_RETURN(const std::string key, cursor.QuotedName("key"));
    cursor.SkipBlanks();
    RETURN_IF_ERROR(cursor.Expect(':'));
    cursor.SkipBlanks();
    RETURN_IF_ERROR(field(key, at));
    cursor.SkipBlanks();
    if (cursor.Take('}')) return absl::OkStatus();
    RETURN_IF_ERROR(cursor.Expect(','));
  }
}

template <typename T>
absl::Status SetOnce(const TextCursor& cursor, size_t at, const std::string& key, T value,
                     std::optional<T>* field) {
  if (field->has_value()) return cursor.ErrorAt(at, ("\"" + key + "\" is given twice"));
  *field = std::move(value);
  return absl::OkStatus();
}

absl::Status ParsePrefix(TextCursor& cursor, std::vector<std::pair<std::string, int32_t>>* prefix) {
  return ParseArray(cursor, [&]() -> absl::Status {
    const size_t begin = cursor.position();
    std::optional<std::string> id;
    std::optional<int32_t> tokens;
    RETURN_IF_ERROR(ParseObject(cursor, [&](const std::string& key, size_t at) -> absl::Status {
      if (key == "id") {
        ASSIGN_OR_RETURN(std::string value, cursor.QuotedName("prefix id"));
        return SetOnce(cursor, at, key, std::move(value), &id);
      }
      if (key == "tokens") {
        ASSIGN_OR_RETURN(const int32_t value, Tokens(cursor, "prefix tokens", 1, kMaxPromptTokens));
        return SetOnce(cursor, at, key, value, &tokens);
      }
      return cursor.ErrorAt(at, ("unknown key \"" + key + "\" in prefix"));
    }));
    if (!id.has_value() || !tokens.has_value()) {
      return cursor.ErrorAt(begin, "a part of prefix needs \"id\" and \"tokens\"");
    }
    prefix->emplace_back(*std::move(id), *tokens);
    return absl::OkStatus();
  });
}

absl::Status ParseField(TextCursor& cursor, const std::string& key, size_t at, Record* record) {
  if (key == "arrival" || key == "think") {
    ASSIGN_OR_RETURN(const double value, cursor.Number(key, 0, kMaxSeconds));
    return SetOnce(cursor, at, key, value, key == "think" ? &record->think : &record->arrival);
  }
  if (key == "tenant" || key == "session" || key == "parent") {
    ASSIGN_OR_RETURN(std::string value, cursor.QuotedName(key));
    std::optional<std::string>* const field = key == "tenant"    ? &record->tenant
                                              : key == "session" ? &record->session
                                                                 : &record->parent;
    return SetOnce(cursor, at, key, std::move(value), field);
  }
  if (key == "priority") {
    const size_t begin = cursor.position();
    ASSIGN_OR_RETURN(const std::string value, cursor.QuotedName(key));
    for (const auto& [name, priority] :
         {std::pair{"low", TurnPriority::kLow}, std::pair{"normal", TurnPriority::kNormal},
          std::pair{"high", TurnPriority::kHigh}}) {
      if (value == name) return SetOnce(cursor, at, key, priority, &record->priority);
    }
    return cursor.ErrorAt(begin, "priority: expected low, normal or high");
  }
  if (key == "prefix") {
    std::vector<std::pair<std::string, int32_t>> prefix;
    RETURN_IF_ERROR(ParsePrefix(cursor, &prefix));
    return SetOnce(cursor, at, key, std::move(prefix), &record->prefix);
  }
  if (key == "tokens") {
    std::vector<int32_t> tokens;
    RETURN_IF_ERROR(ParseArray(cursor, [&]() -> absl::Status {
      ASSIGN_OR_RETURN(const int32_t token, Tokens(cursor, "tokens", 0, 1 << 30));
      tokens.push_back(token);
      return absl::OkStatus();
    }));
    return SetOnce(cursor, at, key, std::move(tokens), &record->tokens);
  }
  if (key == "prompt") {
    ASSIGN_OR_RETURN(const int32_t value, Tokens(cursor, "prompt", 0, kMaxPromptTokens));
    return SetOnce(cursor, at, key, value, &record->prompt);
  }
  if (key == "output") {
    ASSIGN_OR_RETURN(const int32_t value, Tokens(cursor, "output", 0, kMaxOutputTokens));
    return SetOnce(cursor, at, key, value, &record->output);
  }
  return cursor.ErrorAt(at, ("unknown key \"" + key + "\""));
}

// Puts records together to scripts.
class Assembler {
 public:
  explicit Assembler(const TraceLimits& limits) : limits_(limits) {}

  absl::Status Add(const TextCursor& cursor, Record record) {
    const auto refuse = [&](std::string_view why) { return cursor.ErrorAt(0, why); };
    if (!record.output.has_value()) return refuse("\"output\" is missing");
    Turn turn;
    turn.tenant = list_->mutable_tenants().Intern(record.tenant.value_or("default"));
    if (static_cast<int64_t>(list_->tenants().names().size()) > limits_.max_tenants) {
      return refuse(absl::StrCat("more than ", limits_.max_tenants, " tenants"));
    }
    turn.priority = record.priority.value_or(TurnPriority::kNormal);
    turn.output = *record.output;
    turn.own_tokens = record.prompt.value_or(0);
    if (record.tokens.has_value()) turn.tokens = *std::move(record.tokens);
    if (record.prefix.has_value()) {
      for (const auto& [id, tokens] : *record.prefix) {
        turn.prefix.push_back({list_->mutable_prefixes().Intern(id), tokens});
      }
    }
    if (turn.prompt_tokens() > kMaxPromptTokens) return refuse("the prompt is too long");

    Session* session = nullptr;
    if (record.session.has_value()) {
      const auto found = sessions_.find(*record.session);
      if (found != sessions_.end()) session = &found->second;
    }
    if (session != nullptr && record.parent.has_value()) {
      return refuse("\"parent\" is for the first turn of a session");
    }
    if (record.parent.has_value() && !record.session.has_value()) {
      return refuse("\"parent\" needs a \"session\"");
    }
    Session place;  // where the turn goes
    if (session != nullptr) {
      place = *session;
    } else if (record.parent.has_value()) {
      const auto parent = sessions_.find(*record.parent);
      if (parent == sessions_.end()) return refuse("\"parent\" names no earlier session");
      place = parent->second;
    }
    const bool continues = place.last_turn >= 0;
    if (continues && list_->script(place.script).turns[place.last_turn].tenant != turn.tenant) {
      return refuse("a session belongs to one tenant");
    }
    if (continues && !turn.prefix.empty()) {
      return refuse("\"prefix\" is for turns that start without a state");
    }
    if (!continues && turn.prompt_tokens() == 0) return refuse("the prompt is empty");
    if (!continues && record.think.has_value()) {
      return refuse("\"think\" needs an earlier turn of the session or a \"parent\"");
    }
    if (record.think.has_value() == record.arrival.has_value()) {
      return refuse("expected either \"arrival\" or \"think\"");
    }
    turn.after = place.last_turn;
    turn.delay = record.think.value_or(0);
    if (!continues) {
      Script script;
      script.start = *record.arrival;
      place.script = list_->size();
      list_->Add(std::move(script));
    } else {
      turn.not_before = record.arrival.value_or(0);
    }
    Script& script = list_->script(place.script);
    if (record.session.has_value()) {
      place.index = session != nullptr ? session->index : script.num_sessions++;
      turn.session = place.index;
    }
    place.last_turn = static_cast<int32_t>(script.turns.size());
    script.turns.push_back(std::move(turn));
    if (record.session.has_value()) sessions_[*std::move(record.session)] = place;
    return absl::OkStatus();
  }

  std::unique_ptr<ScriptSource> Finish() {
    list_->Sort();
    return std::move(list_);
  }

 private:
  struct Session {
    size_t script = 0;
    int32_t index = -1, last_turn = -1;
  };
  const TraceLimits limits_;
  std::unique_ptr<ScriptList> list_ = std::make_unique<ScriptList>();
  absl::flat_hash_map<std::string, Session> sessions_;
};

// Shortest digits that read back as the same number.
std::string Digits(double value) {
  char text[64];
  return std::string(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

}  // namespace

void ScriptList::Sort() {
  std::stable_sort(scripts_.begin(), scripts_.end(),
                   [](const Script& a, const Script& b) { return a.start < b.start; });
  for (size_t i = 0; i < scripts_.size(); ++i) scripts_[i].id = i;
}

bool ScriptList::Next(Script* script) {
  if (next_ == scripts_.size()) return false;
  *script = scripts_[next_++];
  return true;
}

absl::StatusOr<std::unique_ptr<ScriptSource>> ReadJsonTrace(std::istream& in,
                                                            const std::string& name,
                                                            const TraceLimits& limits) {
  Assembler assembler(limits);
  LineReader lines(in, name, limits.max_line_bytes);
  std::string line;
  for (int64_t records = 0;;) {
    ASSIGN_OR_RETURN(const bool more, lines.Next(&line));
    if (!more) return assembler.Finish();
    TextCursor cursor(name, lines.line_number(), line);
    cursor.SkipBlanks();
    if (cursor.AtEnd()) continue;
    if (++records > limits.max_records) {
      return absl::ResourceExhaustedError(absl::StrCat(
          name, ":", lines.line_number(), ":1: more than ", limits.max_records, " records"));
    }
    Record record;
    RETURN_IF_ERROR(ParseObject(cursor, [&](const std::string& key, size_t at) {
      return ParseField(cursor, key, at, &record);
    }));
    cursor.SkipBlanks();
    if (!cursor.AtEnd()) {
      return cursor.Error(("expected the end of the line, found " + cursor.Found()));
    }
    RETURN_IF_ERROR(assembler.Add(cursor, std::move(record)));
  }
}

absl::Status WriteJsonTrace(ScriptSource& source, std::ostream& out) {
  const auto session_name = [](const Script& script, int32_t session) {
    return absl::StrCat("s", script.id, ".", session);
  };
  Script script;
  while (source.Next(&script)) {
    std::vector<bool> named(script.num_sessions, false);
    for (const Turn& turn : script.turns) {
      std::string line = "{";
      if (turn.after < 0) {
        absl::StrAppend(&line, "\"arrival\": ", Digits(script.start + turn.delay));
      } else {
        absl::StrAppend(&line, "\"think\": ", Digits(turn.delay));
      }
      absl::StrAppend(&line, ", \"tenant\": \"", source.tenants().names()[turn.tenant], "\"");
      if (turn.priority != TurnPriority::kNormal) {
        absl::StrAppend(&line, ", \"priority\": \"",
                        turn.priority == TurnPriority::kLow ? "low" : "high", "\"");
      }
      if (turn.session >= 0) {
        absl::StrAppend(&line, ", \"session\": \"", session_name(script, turn.session), "\"");
        const bool first = !named[turn.session];
        named[turn.session] = true;
        if (first && turn.after >= 0) {
          absl::StrAppend(&line, ", \"parent\": \"",
                          session_name(script, script.turns[turn.after].session), "\"");
        }
      }
      if (!turn.prefix.empty()) {
        absl::StrAppend(&line, ", \"prefix\": [");
        for (size_t i = 0; i < turn.prefix.size(); ++i) {
          absl::StrAppend(&line, i == 0 ? "" : ", ", "{\"id\": \"",
                          source.prefixes().names()[turn.prefix[i].name],
                          "\", \"tokens\": ", turn.prefix[i].tokens, "}");
        }
        absl::StrAppend(&line, "]");
      }
      if (!turn.tokens.empty()) {
        absl::StrAppend(&line, ", \"tokens\": [");
        for (size_t i = 0; i < turn.tokens.size(); ++i) {
          absl::StrAppend(&line, i == 0 ? "" : ", ", turn.tokens[i]);
        }
        absl::StrAppend(&line, "]");
      }
      absl::StrAppend(&line, ", \"prompt\": ", turn.own_tokens, ", \"output\": ", turn.output,
                      "}\n");
      out << line;
    }
  }
  out.flush();
  if (!out) return absl::DataLossError("writing the trace failed");
  return absl::OkStatus();
}

}  // namespace reprise::simulate
