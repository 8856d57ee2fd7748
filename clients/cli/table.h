// Plain text for people: aligned columns, sizes, times.
#ifndef REPRISE_CLIENTS_CLI_TABLE_H_
#define REPRISE_CLIENTS_CLI_TABLE_H_

#include <google/protobuf/timestamp.pb.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace reprise::cli {

// Rows under a header, columns two spaces apart, no trailing blanks.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// "name:   value" lines with the values aligned; pairs with an empty value are left out.
std::string KeyValues(const std::vector<std::pair<std::string, std::string>>& pairs);

// "1.5 MiB", "812 B".
std::string Bytes(int64_t bytes);

// "2026-11-24 16:05:12" in UTC; "-" when unset.
std::string Time(const google::protobuf::Timestamp& time);

// "12.3 ms", "4.56 s".
std::string Seconds(double seconds);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_TABLE_H_
