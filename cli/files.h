// Files in and out.
#pragma once

#include <string>

namespace prescore::cli {

/// Whole contents. Throws BadInput.
std::string read_file(const std::string& path);

/// Throws BadInput unless `path` is a readable GGUF file.
void check_gguf(const std::string& path);

/// Throws BadInput unless write_file(path) can be expected to work: asked before hours of work.
void check_writable(const std::string& path);

/// Readers see the old file or the whole new one: written beside it, then renamed. Throws BadInput.
void write_file(const std::string& path, const std::string& contents);

}  // namespace prescore::cli
