package shm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// queueInput is one call: a push of Value, or a pop (Value 0).
type queueInput struct{ push, value uint64 }

// queueModel is a first-in first-out queue. Its state is the slice of values that are in it; a pop returns one, or 0 for empty.
var queueModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		queue, in := state.(string), input.(queueInput)
		if in.push != 0 {
			return true, queue + string(rune(in.value))
		}
		if output.(uint64) == 0 {
			return queue == "", queue
		}
		for i, r := range queue {
			return i == 0 && uint64(r) == output.(uint64), queue[len(string(r)):]
		}
		return false, queue
	},
	DescribeOperation: func(input, output any) string {
		if in := input.(queueInput); in.push != 0 {
			return fmt.Sprintf("push(%d)", in.value)
		}
		return fmt.Sprintf("pop() = %d", output)
	},
}

// history runs one producer against this process's consumer and records every call with its times, empty pops too.
func history(t *testing.T, s *SessionFile, producer end, n int, pause time.Duration) []porcupine.Operation {
	t.Helper()
	specs := make([]spec, n)
	for i := range specs {
		specs[i] = spec{Kind: KindSignal, Lane: 1, Seq: uint32(i + 1), Deps: uint32(rand.IntN(4)), PublishIt: 1, Seed: uint64(i + 1)}
	}
	type result struct {
		spans []span
		err   error
	}
	pushed := make(chan result, 1)
	c := NewConsumer(s)
	if err := c.Resume(s.Consumer().Head, s.Consumer().Head); err != nil {
		t.Fatal(err)
	}
	go func() {
		spans, err := producer.produce(specs, pause)
		pushed <- result{spans, err}
	}()
	var ops []porcupine.Operation
	empties := 0
	for got, deadline := 0, time.Now().Add(20*time.Second); got < n; {
		start := now()
		v, ok, err := c.Next()
		stop := now()
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("after %d records: %v", got, err)
		}
		if ok {
			got++
			ops = append(ops, porcupine.Operation{ClientId: 1, Input: queueInput{}, Output: uint64(v.Seq), Call: int64(start), Return: int64(stop)})
			c.Release(v.End, true)
		} else if empties < 4*n { // enough of them, so that the check stays small
			empties++
			ops = append(ops, porcupine.Operation{ClientId: 1, Input: queueInput{}, Output: uint64(0), Call: int64(start), Return: int64(stop)})
		}
	}
	r := <-pushed
	if r.err != nil {
		t.Fatal(r.err)
	}
	for i, sp := range r.spans {
		ops = append(ops, porcupine.Operation{ClientId: 0, Input: queueInput{1, uint64(specs[i].Seq)}, Call: int64(sp.Start), Return: int64(sp.End)})
	}
	return ops
}

// TestLinearizable checks that concurrent pushes and pops, from both languages, are those of a queue: what push returned from is
// there, what pop called empty was empty, in the order of pushes.
func TestLinearizable(t *testing.T) {
	for _, language := range []string{"Go", "C"} {
		t.Run(language, func(t *testing.T) {
			s, d := newSession(t)
			var producer end = goEnd{s, d}
			if language == "C" {
				producer = newCEnd(t, s, d)
			}
			for round := range 20 {
				setPosition(s, RingBytes-16*uint64(rand.IntN(200)))
				ops := history(t, s, producer, 100, time.Duration(round%4)*time.Microsecond)
				if !porcupine.CheckOperations(queueModel, ops) {
					t.Fatalf("round %d: %d calls are not those of a queue", round, len(ops))
				}
			}
		})
	}
}

// TestLinearizableFindsFaults feeds the checker histories that no queue gives.
func TestLinearizableFindsFaults(t *testing.T) {
	push := func(v uint64, from, to int64) porcupine.Operation {
		return porcupine.Operation{ClientId: 0, Input: queueInput{1, v}, Call: from, Return: to}
	}
	pop := func(v uint64, from, to int64) porcupine.Operation {
		return porcupine.Operation{ClientId: 1, Input: queueInput{}, Output: v, Call: from, Return: to}
	}
	for name, ops := range map[string][]porcupine.Operation{
		"order":          {push(1, 0, 1), push(2, 2, 3), pop(2, 4, 5), pop(1, 6, 7)},
		"twice":          {push(1, 0, 1), pop(1, 2, 3), pop(1, 4, 5)},
		"not seen":       {push(1, 0, 1), pop(0, 2, 3), pop(1, 4, 5)},
		"before a push":  {pop(1, 0, 1), push(1, 2, 3)},
		"out of nowhere": {push(1, 0, 1), pop(7, 2, 3)},
	} {
		if porcupine.CheckOperations(queueModel, ops) {
			t.Errorf("%s: accepted", name)
		}
	}
}
