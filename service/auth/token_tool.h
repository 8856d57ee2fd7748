// `reprised token`: makes static bearer tokens.
#ifndef REPRISE_SERVICE_AUTH_TOKEN_TOOL_H_
#define REPRISE_SERVICE_AUTH_TOKEN_TOOL_H_

namespace reprise::service {

// `argv` without the program's name. The token goes to standard output, its line to the end of the
// file that --file names, or to standard output too. Returns the exit code.
int RunTokenTool(int argc, const char* const* argv);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_TOKEN_TOOL_H_
