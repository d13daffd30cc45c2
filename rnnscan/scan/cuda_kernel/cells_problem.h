// What the CUDA kernel of recurrent cells (cells.h) is asked, as numbers that `cells.py` chooses. On a
// GPU they are constants of the program, on a host a variable.

#pragma once

#include "integers.h"
#include "linear/maps.h"

namespace rnnscan {

enum class Activation { tanh, relu };

// Numbers alone, so that it can be filled from a flat list.
struct Problem {
  int64_t type;          // f32
  int64_t activation;
  int64_t backward;      // the transposed map
  int64_t from_the_end;  // from the last step to the first
  int64_t batch, steps, hidden;
  int64_t padded, resets;  // whether there are `valid` and `reset`
  int64_t rows;          // sequences of a block
  int64_t kept;          // 32 columns of W each, that stay in registers
  int64_t ahead;         // steps that are read before they are needed
};

// Of arrays, batch first; those that a map does not have are null.
struct Pointers {
  const float* drive;    // (B, T, H): W_ih x + b, backward the cotangents of h
  const float* states;   // (B, T, H): backward, h
  const float* weights;  // (H, H)
  const float* first;    // (B, H): what the scan starts from
  const uint8_t* valid;  // (B, T)
  const uint8_t* reset;  // (B, T)
  float* out;            // (B, T, H): h, backward the cotangents of the drive
  float* last;           // (B, H): backward, the cotangent of the first state
};

}  // namespace rnnscan
