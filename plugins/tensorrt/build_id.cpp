#include "build_id.h"

#include <elf.h>
#include <link.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

namespace paro::trt {
namespace {

constexpr size_t kBytes = 8;
using Text = std::array<char, 2 * kBytes + 1>;
using Segment = ElfW(Phdr);

// Reads a segment of ELF notes. Each note is a header, a name and a description; the name and the
// description are padded.
void find_in(const unsigned char* notes, size_t size, size_t alignment, Text& text) {
  const auto padded = [=](size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; };
  ElfW(Nhdr) header;
  while (size >= sizeof header) {
    std::memcpy(&header, notes, sizeof header);
    const size_t before = sizeof header + padded(header.n_namesz);
    const size_t all = before + padded(header.n_descsz);
    if (all > size) return;
    if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == sizeof ELF_NOTE_GNU &&
        std::memcmp(notes + sizeof header, ELF_NOTE_GNU, sizeof ELF_NOTE_GNU) == 0) {
      for (size_t i = 0; i < std::min<size_t>(kBytes, header.n_descsz); ++i) {
        std::snprintf(text.data() + 2 * i, 3, "%02x", notes[before + i]);
      }
      return;
    }
    notes += all;
    size -= all;
  }
}

// dl_iterate_phdr calls this for each loaded object. It stops at the object that holds this
// function.
int visit(dl_phdr_info* object, size_t, void* text) {
  const auto here = reinterpret_cast<ElfW(Addr)>(&visit);
  const auto* const first = object->dlpi_phdr;
  const auto* const last = first + object->dlpi_phnum;
  const bool is_this = std::any_of(first, last, [&](const Segment& segment) {
    return segment.p_type == PT_LOAD &&
           here - (object->dlpi_addr + segment.p_vaddr) < segment.p_memsz;
  });
  if (!is_this) return 0;
  std::for_each(first, last, [&](const Segment& segment) {
    if (segment.p_type != PT_NOTE) return;
    find_in(reinterpret_cast<const unsigned char*>(object->dlpi_addr + segment.p_vaddr),
            segment.p_memsz, segment.p_align == 8 ? 8 : 4, *static_cast<Text*>(text));
  });
  return 1;
}

}  // namespace

const char* build_id() noexcept {
  static const Text text = [] {
    Text found{};
    dl_iterate_phdr(&visit, &found);
    return found;
  }();
  return text.data();
}

}  // namespace paro::trt
