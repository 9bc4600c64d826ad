// Package resolution tests how a program gets to Heddle's wrappers, without a GPU: the hook table, resolution, configuration, log
// and tool detection of interposer/src are linked with hooks that only answer which one was called, and preloaded into small C
// programs. The driver is a double generated from the hook table: every entry point answers its own number, and it has the two
// resolvers of the real one. It exists in these tests only.
package resolution
