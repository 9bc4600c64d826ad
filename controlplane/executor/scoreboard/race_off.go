//go:build !race

package scoreboard

// GPUStores is for driver doubles: call it before a store that stands for one of the GPU. Only race builds need it.
func GPUStores() {}

func gpuLoads() {}
