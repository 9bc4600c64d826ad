package daemon

import (
	"fmt"

	"github.com/heddle-gpu/heddle/shm"
)

// statusName is a wire status in words.
func statusName(status uint16) string {
	switch status {
	case shm.StatusOK:
		return "ok"
	case shm.StatusNeed:
		return "need the bytes"
	case shm.StatusVersion:
		return "another version of the wire"
	case shm.StatusFull:
		return "a limit is reached"
	case shm.StatusDevice:
		return "the GPU cannot be served"
	case shm.StatusPermission:
		return "not permitted"
	case shm.StatusInvalid:
		return "invalid request"
	case shm.StatusNoMemory:
		return "out of memory"
	case shm.StatusCUDA:
		return "the driver refused"
	case shm.StatusRefused:
		return "refused: runs natively"
	case shm.StatusClosing:
		return "closing"
	}
	return fmt.Sprintf("status %d", status)
}

// reasonName is why a session has a sticky error, as `heddle ps` shows it.
func reasonName(reason uint32) string {
	switch reason {
	case shm.ReasonNone:
		return "none"
	case shm.ReasonFault:
		return "device-fault"
	case shm.ReasonInDoubt:
		return "in-doubt"
	case shm.ReasonBadRecord:
		return "bad-record"
	case shm.ReasonOverrun:
		return "overrun"
	case shm.ReasonLostGlobals:
		return "lost-globals"
	case shm.ReasonLaunchRefused:
		return "launch-refused"
	}
	return fmt.Sprintf("reason-%d", reason)
}
