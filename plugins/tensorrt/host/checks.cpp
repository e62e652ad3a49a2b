#include "checks.h"

#include <unistd.h>

#include <memory>
#include <stdexcept>

namespace paro::trt::host {

std::string errors_of(const std::function<void()>& call) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), &std::fclose);
  const int saved = dup(STDERR_FILENO);
  if (file == nullptr || saved < 0 || dup2(fileno(file.get()), STDERR_FILENO) < 0) {
    throw std::runtime_error("cannot redirect standard error");
  }
  call();
  std::fflush(stderr);
  dup2(saved, STDERR_FILENO);
  close(saved);
  std::rewind(file.get());
  std::string text;
  for (int byte; (byte = std::fgetc(file.get())) != EOF;) text += static_cast<char>(byte);
  return text;
}

}  // namespace paro::trt::host
