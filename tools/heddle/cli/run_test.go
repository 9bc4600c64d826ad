package cli

import "testing"

func TestPreloadComesFirstOnce(t *testing.T) {
	for _, tc := range []struct{ current, want string }{
		{"", "/h/libheddle.so"},
		{"/a.so", "/h/libheddle.so:/a.so"},
		{"/a.so:/old/libheddle.so /b.so", "/h/libheddle.so:/a.so:/b.so"},
		{"/h/libheddle.so", "/h/libheddle.so"},
	} {
		if got := withPreload(tc.current, "/h/libheddle.so"); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.current, got, tc.want)
		}
	}
}

func TestCommandBuffersAreTheUsersToDecide(t *testing.T) {
	for _, tc := range []struct{ flags, want string }{
		{"", "--xla_gpu_enable_command_buffer="},
		{"--xla_dump_to=/d", "--xla_dump_to=/d --xla_gpu_enable_command_buffer="},
		{"--xla_gpu_enable_command_buffer=FUSION", "--xla_gpu_enable_command_buffer=FUSION"},
	} {
		if got := withoutCommandBuffers(tc.flags); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.flags, got, tc.want)
		}
	}
}

func TestNVTXIsTheUsersToDecide(t *testing.T) {
	for _, tc := range []struct{ pattern, current, want string }{
		{"", "", ""},
		{"", "/nsys.so", "/nsys.so"},
		{"request*", "", "/h/libheddle.so"},
		{"request*", "/nsys.so", "/nsys.so"},
	} {
		if got := nvtxLibrary(tc.pattern, tc.current, "/h/libheddle.so"); got != tc.want {
			t.Errorf("%q, %q: %q, want %q", tc.pattern, tc.current, got, tc.want)
		}
	}
}

func TestDaemonsDoNotInheritTheLibrary(t *testing.T) {
	got := withoutPreload([]string{"A=1", "LD_PRELOAD=/h/libheddle.so:/x.so", "HEDDLE_SOCKET=/s", "HEDDLE_LABEL=l", "B=2"})
	want := []string{"A=1", "LD_PRELOAD=/x.so", "B=2"}
	if len(got) != len(want) {
		t.Fatal(got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
}
