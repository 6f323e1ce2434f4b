// The verifier that the schema compiler generates, and what its accessors then read.
//
// stdin: (u32 length, bytes) again and again. stdout, for each: one byte, 1 if verified; and if so u32 length and the
// fields: model, version, u32 count, then for each tensor name, code, bits, u16 lanes, kind, u32 count, i64 sizes.
// Texts are u32 length and bytes; an absent version is an empty one. All integers are little-endian.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "tensor_generated.h"

namespace {

template <typename T>
void put(std::string &out, T value) {
  out.append(reinterpret_cast<const char *>(&value), sizeof value);
}

void put(std::string &out, const flatbuffers::String *text) {
  put<uint32_t>(out, text ? text->size() : 0);
  if (text) out.append(text->c_str(), text->size());
}

std::string fields(const tensorwire::Metadata &metadata) {
  std::string out;
  put(out, metadata.model());
  put(out, metadata.version());
  put<uint32_t>(out, metadata.tensors()->size());
  for (const tensorwire::Tensor *tensor : *metadata.tensors()) {
    put(out, tensor->name());
    put<uint8_t>(out, tensor->dtype()->code());
    put<uint8_t>(out, tensor->dtype()->bits());
    put<uint16_t>(out, tensor->dtype()->lanes());
    put<uint8_t>(out, tensor->kind());
    const flatbuffers::Vector<int64_t> *shape = tensor->shape();
    put<uint32_t>(out, shape ? shape->size() : 0);
    if (shape)
      for (int64_t size : *shape) put(out, size);
  }
  return out;
}

}  // namespace

int main() {
  uint32_t size;
  while (std::fread(&size, sizeof size, 1, stdin) == 1) {
    // Exactly as large as the buffer, so that the address sanitizer sees one byte too many.
    std::unique_ptr<uint8_t[]> raw(new uint8_t[size]);
    if (size && std::fread(raw.get(), size, 1, stdin) != 1) return 1;
    flatbuffers::Verifier verifier(raw.get(), size);
    std::string out;
    if (tensorwire::VerifyMetadataBuffer(verifier)) {
      std::string read = fields(*tensorwire::GetMetadata(raw.get()));
      out.push_back(1);
      put<uint32_t>(out, static_cast<uint32_t>(read.size()));
      out += read;
    } else {
      out.push_back(0);
    }
    std::fwrite(out.data(), 1, out.size(), stdout);
  }
}
