package server

import (
	"fmt"

	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// handler answers one request. An error cuts the client off: it is for messages
// that libcuda.so.1 never sends. What a program does wrong is a status.
type handler struct {
	args int // at least that many
	run  func(c *client, r *wire.Request, fd int) error
}

// plain adapts a handler that needs no descriptor and always answers.
func plain(f func(c *client, r *wire.Request)) func(*client, *wire.Request, int) error {
	return func(c *client, r *wire.Request, _ int) error { f(c, r); return nil }
}

var handlers = map[wire.Op]handler{
	wire.OpCtxCreate:      {3, plain((*client).ctxCreate)},
	wire.OpCtxDestroy:     {1, plain((*client).ctxDestroy)},
	wire.OpCtxSync:        {1, plain((*client).ctxSync)},
	wire.OpStreamCreate:   {7, plain((*client).streamCreate)},
	wire.OpStreamDestroy:  {1, plain((*client).streamDestroy)},
	wire.OpStreamSync:     {1, plain((*client).streamSync)},
	wire.OpEventCreate:    {2, plain((*client).eventCreate)},
	wire.OpEventDestroy:   {1, plain((*client).eventDestroy)},
	wire.OpEventRecord:    {3, plain((*client).eventRecord)},
	wire.OpEventWait:      {3, plain((*client).eventWait)},
	wire.OpEventSync:      {1, plain((*client).eventSync)},
	wire.OpEventElapsed:   {2, plain((*client).eventElapsed)},
	wire.OpEventQuery:     {1, plain((*client).eventQuery)},
	wire.OpMemAlloc:       {3, plain((*client).memAlloc)},
	wire.OpMemFree:        {1, plain((*client).memFree)},
	wire.OpMemInfo:        {1, plain((*client).memInfo)},
	wire.OpVmmCreate:      {3, plain((*client).vmmCreate)},
	wire.OpVmmRelease:     {1, plain((*client).vmmRelease)},
	wire.OpVmmExport:      {1, plain((*client).vmmExport)},
	wire.OpVmmImport:      {0, func(c *client, r *wire.Request, fd int) error { c.vmmImport(r, fd); return nil }},
	wire.OpVmmMap:         {4, plain((*client).vmmMap)},
	wire.OpVmmUnmap:       {2, plain((*client).vmmUnmap)},
	wire.OpVmmAccess:      {4, plain((*client).vmmAccess)},
	wire.OpHostRegister:   {5, func(c *client, r *wire.Request, fd int) error { c.hostRegister(r, fd); return nil }},
	wire.OpHostUnregister: {1, plain((*client).hostUnregister)},
	wire.OpCopy:           {12, plain((*client).copyOp)},
	wire.OpMemset:         {8, plain((*client).memsetOp)},
	wire.OpMemop:          {3, plain((*client).memopOp)},
	wire.OpLaunch:         {15, plain((*client).launchOp)},
	wire.OpHostFunc:       {6, plain((*client).hostFunc)},
	wire.OpNextCallback:   {0, plain((*client).nextCallback)},
	wire.OpCallbackDone:   {1, plain((*client).callbackDone)},
	wire.OpImageLoad:      {2, plain((*client).imageLoad)},
	wire.OpImageFree:      {1, plain((*client).imageFree)},
	wire.OpInstantiate:    {2, plain((*client).instantiate)},
	wire.OpInstanceFree:   {1, plain((*client).instanceFree)},
	wire.OpAsyncFree:      {3, plain((*client).asyncFree)},
	wire.OpIpcMemGet:      {1, plain((*client).ipcMemGet)},
	wire.OpIpcMemOpen:     {2, plain((*client).ipcMemOpen)},
	wire.OpIpcMemClose:    {1, plain((*client).memFree)},
	wire.OpIpcEventGet:    {1, plain((*client).ipcEventGet)},
	wire.OpIpcEventOpen:   {2, plain((*client).ipcEventOpen)},
	wire.OpFetchPrintf:    {1, plain((*client).fetchPrintf)},
	wire.OpNop:            {2, plain((*client).nop)},
	wire.OpPeer:           {3, plain((*client).peer)},
}

// handle runs one request.
func (c *client) handle(r *wire.Request, fd int) error {
	if r.Op == wire.OpHello {
		if len(r.Args) < 6 {
			return fmt.Errorf("%w: HELLO with %d arguments", wire.ErrMalformed, len(r.Args))
		}
		return c.hello(r)
	}
	if c.pid == 0 {
		return fmt.Errorf("%w: %s before HELLO", wire.ErrMalformed, r.Op)
	}
	if r.Op == wire.OpControl {
		c.control(r)
		return nil
	}
	h, ok := handlers[r.Op]
	if !ok || c.kind != wire.KindClient {
		return fmt.Errorf("%w: %s on a connection of kind %d", wire.ErrMalformed, r.Op, c.kind)
	}
	if len(r.Args) < h.args {
		return fmt.Errorf("%w: %s with %d arguments, expected %d", wire.ErrMalformed, r.Op, len(r.Args), h.args)
	}
	if c.backlog.Load() > maxBacklog {
		return fmt.Errorf("more than %d bytes of work queued", int64(maxBacklog))
	}
	c.thread = r.Thread
	return h.run(c, r, fd)
}
