// The parts of a bundle that are made of what the service wrote: its lines around the failure, the
// important ones, and the time line. Thread rule: one thread.

#pragma once

#include <cstdint>
#include <string>

#include "defib/postmortem/bundle_writer.h"
#include "defib/wire/json.h"

namespace defib::bundle {

class OutputParts {
 public:
  OutputParts(std::string state_dir, std::string incident, std::string service,
              std::int64_t failed_wall_ns)
      : state_dir_(std::move(state_dir)),
        incident_(std::move(incident)),
        service_(std::move(service)),
        failed_ns_(failed_wall_ns) {}
  void add(postmortem::BundleWriter& writer) const;

 private:
  void add_log(postmortem::BundleWriter& writer, wire::Json::Array& timeline) const;
  void add_events(wire::Json::Array& timeline) const;
  bool near(std::int64_t wall_ns) const;

  std::string state_dir_, incident_, service_;
  std::int64_t failed_ns_;
};

}  // namespace defib::bundle
