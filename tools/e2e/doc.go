// Package e2e runs whole systems: unmodified client programs, the preload
// library, a daemon, executors and a GPU (the software one in `make test`), each
// in processes of their own. What a client prints natively it must print under
// Heddle, whatever else happens around it.
package e2e
