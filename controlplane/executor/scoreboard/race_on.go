//go:build race

package scoreboard

import "sync/atomic"

// The race detector does not follow what passes through memory that is not Go's: an op that a driver double completes by storing
// lane.done would look unordered to it. In race builds a word of Go's own carries that order.
var gpuOrder atomic.Uint32

// GPUStores is for driver doubles: call it before a store that stands for one of the GPU.
func GPUStores() { gpuOrder.Add(1) }

func gpuLoads() { gpuOrder.Load() }
