package server

// Result codes of the driver API (cuda.h, CUresult) that the server gives.
const (
	success                = 0
	errInvalidValue        = 1
	errOutOfMemory         = 2
	errInvalidImage        = 200
	errInvalidContext      = 201
	errNoBinaryForGPU      = 209
	errInvalidPTX          = 218
	errOperatingSystem     = 304
	errInvalidHandle       = 400
	errNotFound            = 500
	errNotReady            = 600
	errIllegalAddress      = 700
	errLaunchResources     = 701
	errLaunchTimeout       = 702
	errContextDestroyed    = 709
	errAssert              = 710
	errHardwareStack       = 714
	errIllegalInstruction  = 715
	errMisalignedAddress   = 716
	errInvalidAddressSpace = 717
	errInvalidPC           = 718
	errLaunchFailed        = 719
	errNotSupported        = 801
	errUnknown             = 999
)
