// Package conformance tests the compiler on the whole corpus of jit/interp/kernels: every kernel is parsed, printed, assembled by
// NVIDIA's ptxas before and after rewriting for each architecture that takes it, and what it computes alone in the interpreter
// is compared, bit for bit, with what it computes as an instance of a word (jit/coalesce), under every order of threads.
//
// `go test` takes one architecture and a part of the corpus, both chosen by the date; HEDDLE_SEED repeats another day's choice and
// HEDDLE_NIGHTLY=1 takes everything. export/ writes the corpus and its rewritten forms to files for a machine with a GPU.
package conformance
