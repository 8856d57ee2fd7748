// reprise models: list, show.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "clients/cli/commands.h"
#include "clients/cli/table.h"

namespace reprise::cli {
namespace {

using Stub = v1::ModelService::StubInterface;

std::string Count(int64_t n) {
  if (n >= 1'000'000'000) return absl::StrFormat("%.2fB", static_cast<double>(n) * 1e-9);
  if (n >= 1'000'000) return absl::StrFormat("%.1fM", static_cast<double>(n) * 1e-6);
  return std::to_string(n);
}

absl::Status RunList(Env& env) {
  RETURN_IF_ERROR(env.Connect());
  ASSIGN_OR_RETURN(v1::ListModelsResponse response,
                   env.Call(env.models(), &Stub::ListModels, v1::ListModelsRequest()));
  Table table({"MODEL", "ARCHITECTURE", "PARAMETERS", "TYPE", "STATE", "DEVICE", "WEIGHTS"});
  for (const v1::Model& model : response.models()) {
    if (env.options.json) {
      env.PrintJson(ToJson(model));
    } else {
      table.Add({model.name(), model.architecture(), Count(model.num_parameters()), model.dtype(),
                 Bytes(model.state_bytes()), model.device(),
                 model.weights_fingerprint().substr(0, 12)});
    }
  }
  if (!env.options.json) env.Print(table.ToString());
  return absl::OkStatus();
}

std::string ModelText(const v1::Model& model) {
  std::string text = KeyValues(
      {{"model", model.name()},
       {"architecture", model.architecture()},
       {"parameters", std::to_string(model.num_parameters())},
       {"layers", std::to_string(model.num_layers())},
       {"hidden size", std::to_string(model.hidden_size())},
       {"vocabulary", std::to_string(model.vocab_size())},
       {"type", model.dtype()},
       {"device", model.device()},
       {"state", absl::StrCat(Bytes(model.state_bytes()), " (", model.state_bytes(), " bytes)")},
       {"longest prompt", absl::StrCat(model.max_prompt_tokens(), " tokens")},
       {"longest answer",
        absl::StrCat(model.max_tokens(), " tokens; ", model.default_max_tokens(), " unless asked")},
       {"bos token", model.has_bos_token() ? std::to_string(model.bos_token()) : ""},
       {"eos token", model.has_eos_token() ? std::to_string(model.eos_token()) : ""},
       {"weights", model.weights_fingerprint()},
       {"tokenizer", model.tokenizer_fingerprint()},
       {"layout", model.layout_digest()},
       {"numerics", model.numerics_id()}});
  if (model.state_tensors_size() == 0) return text;
  Table table({"STATE TENSOR", "TYPE", "SHAPE"});
  for (const v1::StateTensor& tensor : model.state_tensors()) {
    table.Add({tensor.name(), tensor.dtype(), absl::StrJoin(tensor.shape(), " x ")});
  }
  return absl::StrCat(text, "\n", table.ToString());
}

absl::Status RunShow(Env& env, const std::string& name) {
  RETURN_IF_ERROR(env.Connect());
  v1::GetModelRequest request;
  request.set_name(name);
  ASSIGN_OR_RETURN(v1::Model model, env.Call(env.models(), &Stub::GetModel, request));
  if (env.options.json) {
    env.PrintJson(ToJson(model));
  } else {
    env.Print(ModelText(model));
  }
  return absl::OkStatus();
}

}  // namespace

void AddModelsCommand(CLI::App& app, Env& env) {
  CLI::App* group = app.add_subcommand("models", "What the server serves");
  group->require_subcommand(1);
  group->fallthrough();
  CLI::App* list = group->add_subcommand("list", "All models");
  list->callback([&env] { env.run = [&env] { return RunList(env); }; });
  auto name = std::make_shared<std::string>();
  CLI::App* show = group->add_subcommand("show", "One model with the tensors of its state");
  show->add_option("model", *name, "Default: the server's only one");
  show->callback([name, &env] { env.run = [name, &env] { return RunShow(env, *name); }; });
}

}  // namespace reprise::cli
