// The instruction sets that every kernel.cc is compiled for, each in a namespace of its name, and
// which of them this machine is to run.

#pragma once

namespace rnnscan {

enum Level { kBaseline, kX86_64_v3, kX86_64_v4 };

Level level();  // the best there is; always the same
const char* level_name();

}  // namespace rnnscan
