package server

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// OptionsFromEnv reads the SIMGPU_* variables (tools/simgpu/README.md lists them).
func OptionsFromEnv(getenv func(string) string) (Options, error) {
	var o Options
	number := func(name string, limit uint64, parse func(string) (uint64, error)) (uint64, error) {
		text := getenv(name)
		if text == "" {
			return 0, nil
		}
		n, err := parse(text)
		if err != nil || n > limit {
			return 0, fmt.Errorf("simgpu: %s=%q: expected a number up to %d", name, text, limit)
		}
		return n, nil
	}
	decimal := func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }
	n, err := number("SIMGPU_DEVICES", 16, decimal)
	if err != nil {
		return o, err
	}
	o.Devices = int(n)
	if o.Memory, err = number("SIMGPU_MEMORY", 1<<42, parseBytes); err != nil {
		return o, err
	}
	if o.ContextBytes, err = number("SIMGPU_CONTEXT_BYTES", 1<<40, parseBytes); err != nil {
		return o, err
	}
	if o.MaxInstructions, err = number("SIMGPU_MAX_INSTRUCTIONS", 1<<62, decimal); err != nil {
		return o, err
	}
	if o.Seed, err = number("SIMGPU_SEED", 1<<63, decimal); err != nil {
		return o, err
	}
	if n, err = number("SIMGPU_POLL_US", 1e6, decimal); err != nil {
		return o, err
	}
	o.Poll = time.Duration(n) * time.Microsecond
	if text := getenv("SIMGPU_INJECT"); text != "" {
		if err := json.Unmarshal([]byte(text), &o.Inject); err != nil {
			return o, fmt.Errorf(`simgpu: SIMGPU_INJECT: %w: expected a list such as [{"call":"cuMemAlloc_v2","nth":3,"code":2}]`, err)
		}
	}
	return o, nil
}

// parseBytes reads a size such as 8GiB, 512M or 1048576.
func parseBytes(s string) (uint64, error) {
	s = strings.TrimSuffix(strings.TrimSuffix(s, "B"), "i")
	shift := 0
	for i, suffix := range []string{"K", "M", "G", "T"} {
		if cut, ok := strings.CutSuffix(s, suffix); ok {
			s, shift = cut, 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil && n<<shift>>shift != n {
		err = strconv.ErrRange
	}
	return n << shift, err
}
