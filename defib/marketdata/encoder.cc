#include "defib/marketdata/encoder.h"

namespace defib::marketdata {

Encoder::Encoder(std::string& out, bool compressed)
    : out_(out), compressor_(compressed ? std::make_unique<Compressor>() : nullptr) {}

void Encoder::write(std::string_view bytes) {
  if (compressor_ != nullptr) {
    compressor_->write(bytes, out_);
  } else {
    out_.append(bytes);
  }
}

Result<> Encoder::metadata(const Metadata& metadata) {
  DEFIB_TRY_ASSIGN(const std::string bytes, encode_metadata(metadata));
  write(bytes);
  return {};
}

void Encoder::record(const RecordView& record) {
  write(record.bytes());
}

void Encoder::finish() {
  if (compressor_ != nullptr) compressor_->finish(out_);
}

}  // namespace defib::marketdata
