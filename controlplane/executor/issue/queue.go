package issue

import (
	"sync/atomic"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/executor/word"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// kind of a command.
type kind uint8

const (
	cmdWord     kind = iota
	cmdSignal        // write value to address behind the stream's work
	cmdRecord        // record event on the stream
	cmdWait          // the stream waits for event, which command number of thread records
	cmdElapsed       // answer a time
	cmdMeasure       // take a word's time
	cmdExchange      // the stream's work goes on on another one
)

// command is what an issue thread does next. It is a value in the queue's ring.
type command struct {
	kind    kind
	stream  int32
	thread  int32
	value   uint32
	number  uint64
	address uint64
	event   gpu.Event
	fresh   gpu.Stream
	confine bool
	word    word.Word
	session *scoreboard.Session
	elapsed shm.Elapsed
	reply   *shm.ReplySlot
}

// queueLength is a queue's size; queueUse bounds how far an issue thread usually lags behind the poller, in commands of 3 to 8 µs: an op
// in a queue is bound to its launch, while one that waits can still go with what arrives behind it or beside it, or after what is more
// urgent.
const (
	queueLength = 128
	queueUse    = 8
)

// Behind those in use there is room for a word with the orders for which it waits: a record and a wait for each other stream.
var _ [queueLength - queueUse - 2*MaxStreams]byte

// queue is a single-producer, single-consumer ring. Commands are numbered from 1 in the order they were pushed.
type queue struct {
	cells [queueLength]command
	_     [64]byte
	tail  atomic.Uint64 // pushed; stored by the poller
	_     [56]byte
	done  atomic.Uint64 // executed; stored by the thread
	_     [56]byte
}

// room is how many commands fit now.
func (q *queue) room() int { return queueLength - int(q.tail.Load()-q.done.Load()) }

// next is the cell that push will publish; the poller fills every field it needs.
func (q *queue) next() *command { return &q.cells[q.tail.Load()%queueLength] }

// push publishes the cell of next and returns its number.
func (q *queue) push() uint64 { return q.tail.Add(1) }
