package shm

import "testing"

// producer adds every step that the producer can take: heddle_record_begin, heddle_ring_publish, heddle_ring_wait_space.
func (m *model) producer(s modelState) {
	if s.ppc == pEnd || s.ppc == pDead {
		return
	}
	if m.producerDies {
		// What left the core reaches memory; a death with less in the buffer is a death at an earlier step.
		n := s
		n.drain(&n.pb)
		n.ppc = pDead
		m.add(n, false)
	}
	n := s
	goTo := func(pc uint8) {
		n.ppc = pc
		if pc == pBegin { // looks at nothing shared: part of the step before it
			n.begin(m)
		}
		m.add(n, true)
	}
	store := func(addr, val, next uint8) {
		if n.pb.push(addr, val) {
			goTo(next)
		}
	}
	drained := s.pb.n == 0
	switch s.ppc {
	case pRefresh:
		n.phead = s.load(&s.pb, m.headWord())
		if n.fits(m) {
			goTo(pBegin)
			return
		}
		goTo(pWaitBell)
	case pWrite:
		i, total := s.pcell, uint8(0)
		for _, p := range s.span() {
			if i < total+p.size {
				pos := p.pos + i - total
				n.pcell++
				next := uint8(pWrite)
				if p.cell != padCell && i == total+p.size-1 {
					next = pTail
					if m.has(tailBeforeRecord) {
						next = pBegin
						n.rec++
						n.ptail = p.pos + p.size
					}
				}
				store(pos%modelUnits, p.cell, next)
				return
			}
			total += p.size
		}
	case pTail:
		span := s.span()
		end := span[len(span)-1].pos + span[len(span)-1].size
		if m.has(tailBeforeRecord) {
			store(aTail, end, pWrite)
			return
		}
		n.ptail = end
		n.rec++
		next := uint8(pFence)
		if m.has(noPublishFence) {
			next = pLook
		}
		store(aTail, end, next)
	case pFence:
		if drained {
			goTo(pLook)
		}
	case pLook:
		if s.load(&s.pb, aSleeping) == 0 {
			goTo(pBegin)
		} else if m.has(noBellChange) {
			goTo(pWake)
		} else {
			goTo(pBell)
		}
	case pBell:
		if drained {
			n.mem[aBell]++
			goTo(pWake)
		}
	case pWake:
		if drained {
			if n.cpc == cAsleep {
				n.cpc = cAwake
			}
			goTo(pBegin)
		}
	case pWaitBell:
		n.pbell = s.load(&s.pb, aSpaceBell)
		goTo(pWaitFlag)
	case pWaitFlag:
		next := uint8(pWaitFence)
		if m.has(noWaitFence) {
			next = pWaitHead
		}
		store(aWaiting, 1, next)
	case pWaitFence:
		if drained {
			goTo(pWaitHead)
		}
	case pWaitHead:
		if m.has(noWaitLook) {
			goTo(pWaitSleep)
			return
		}
		n.phead = s.load(&s.pb, m.headWord())
		if n.fits(m) {
			goTo(pWaitDone)
			return
		}
		goTo(pWaitSleep)
	case pWaitSleep:
		if !drained {
			return
		}
		if m.has(spaceBellReadLate) {
			n.pbell = s.mem[aSpaceBell]
		}
		if s.mem[aSpaceBell] != n.pbell {
			goTo(pWaitBell)
			return
		}
		goTo(pAsleep)
	case pWaitDone:
		store(aWaiting, 0, pBegin)
	}
}

// begin decides what comes after a record.
func (s *modelState) begin(m *model) {
	s.pcell, s.pbell = 0, 0
	switch {
	case int(s.rec) == len(modelSizes):
		s.ppc = pEnd
	case !s.fits(m):
		s.ppc = pRefresh
	case m.has(tailBeforeRecord):
		s.ppc = pTail
	default:
		s.ppc = pWrite
	}
}

func (m *model) headWord() uint8 {
	if m.has(roomByRead) {
		return aRead
	}
	return aHead
}

// consumer adds every step that the consumer can take: an executor's loop around Consumer.Next, Consumer.Release and
// Doorbell.Sleep. When an op is done is the GPU's business, so a release may happen before any scan.
func (m *model) consumer(s modelState) {
	if m.peerDies && s.reborn == 0 {
		n := s
		n.drain(&n.cb)
		n.reborn = 1
		n.cread, n.chead, n.ctail = n.mem[aHead], n.mem[aHead], n.mem[aHead]
		n.cbell = 0
		n.cpc = cResumeBell
		if m.has(resumeDoesNotWake) {
			n.cpc = cScan
		}
		m.add(n, false)
	}
	n := s
	store := func(addr, val, next uint8) {
		if n.cb.push(addr, val) {
			n.cpc = next
			m.add(n, true)
		}
	}
	goTo := func(pc uint8) {
		n.cpc = pc
		if pc == cScan {
			n.cbell = 0 // not used before it is read again
		}
		m.add(n, true)
	}
	drained := s.cb.n == 0
	wakeProducer := func(next uint8) {
		if drained {
			if n.ppc == pAsleep {
				n.ppc = pWaitBell
			}
			goTo(next)
		}
	}
	switch s.cpc {
	case cScan:
		if s.chead != s.cread {
			goTo(cCheckUse)
			n = s
		}
		if s.cread == s.ctail {
			n.ctail = s.load(&s.cb, aTail)
			if n.ctail == s.cread {
				if s.chead == s.cread {
					goTo(cSleepBell)
				}
				return // ops in flight: poll on
			}
			if n.ctail-s.chead > modelUnits {
				m.fail("tail %d is more than the ring above head %d", n.ctail, s.chead)
				return
			}
		}
		goTo(cRead)
	case cRead:
		p := placeAt(s.cread)
		for i := range p.size {
			if got := s.load(&s.cb, (p.pos+i)%modelUnits); got != p.cell {
				m.fail("cell %d of the record at %d holds %d instead of %d", i, p.pos, got, p.cell)
				return
			}
		}
		n.cread += p.size
		if m.has(roomByRead) {
			store(aRead, n.cread, cScan)
			return
		}
		goTo(cScan)
	case cCheckUse:
		p := placeAt(s.chead)
		for i := range p.size {
			if got := s.load(&s.cb, (p.pos+i)%modelUnits); got != p.cell {
				m.fail("the record at %d was overwritten while in use: %d instead of %d", p.pos, got, p.cell)
				return
			}
		}
		goTo(cHead)
	case cHead:
		before := s.ctail - s.chead
		n.chead += placeAt(s.chead).size
		next := uint8(cHeadFence)
		if m.has(noReleaseFence) {
			next = cLookWaiting
		}
		if m.has(wakeOnCrossingOnly) && before <= modelUnits/2 {
			next = cScan
		}
		store(aHead, n.chead, next)
	case cHeadFence:
		if drained {
			goTo(cLookWaiting)
		}
	case cLookWaiting:
		if s.ctail-s.chead <= modelUnits/2 && s.load(&s.cb, aWaiting) != 0 {
			goTo(cSpaceBell)
			return
		}
		goTo(cScan)
	case cSpaceBell:
		if drained {
			n.mem[aSpaceBell]++
			goTo(cSpaceWake)
		}
	case cSpaceWake:
		wakeProducer(cScan)
	case cResumeBell:
		n.mem[aSpaceBell]++
		goTo(cResumeWake)
	case cResumeWake:
		wakeProducer(cScan)
	case cSleepBell:
		n.cbell = s.load(&s.cb, aBell)
		goTo(cSleepFlag)
	case cSleepFlag:
		next := uint8(cSleepFence)
		if m.has(noSleepFence) {
			next = cSleepLook
		}
		store(aSleeping, 1, next)
	case cSleepFence:
		if drained {
			goTo(cSleepLook)
		}
	case cSleepLook:
		if !m.has(noSleepLook) && s.load(&s.cb, aTail) != s.cread {
			goTo(cAwake)
			return
		}
		goTo(cSleepWait)
	case cSleepWait:
		if !drained {
			return
		}
		if m.has(bellReadLate) {
			n.cbell = s.mem[aBell]
		}
		if s.mem[aBell] != n.cbell {
			goTo(cAwake)
			return
		}
		goTo(cAsleep)
	case cAsleep:
		if s.ppc == pDead && s.mem[aTail] != s.cread {
			goTo(cAwake) // the timeout
		}
	case cAwake:
		store(aSleeping, 0, cScan)
	}
}

// TestModel explores the protocol as it is.
func TestModel(t *testing.T) {
	for _, c := range []struct {
		name string
		m    model
	}{
		{"nobody dies", model{}},
		{"the producer dies", model{producerDies: true}},
		{"the consumer dies", model{peerDies: true}},
		// Consumer.Resume wakes at once, but the last release below the half does it too.
		{"the consumer dies, the next wakes no producer", model{peerDies: true, faults: resumeDoesNotWake}},
	} {
		t.Run(c.name, func(t *testing.T) {
			states, wrong := c.m.explore()
			if wrong != "" {
				t.Fatalf("after %d states: %s", states, wrong)
			}
			if states < 10000 {
				t.Errorf("%d states; expected far more", states)
			}
			t.Logf("%d states", states)
		})
	}
}

// TestModelFindsFaults breaks the protocol in one place each and expects the explorer to notice.
func TestModelFindsFaults(t *testing.T) {
	for name, m := range map[string]model{
		"no fence between tail and sleeping":       {faults: noPublishFence},
		"wake without changing the bell":           {faults: noBellChange},
		"no look at the tail before sleeping":      {faults: noSleepLook},
		"no fence between sleeping and tail":       {faults: noSleepFence},
		"the bell is read after the look":          {faults: bellReadLate},
		"the tail is stored before the record":     {faults: tailBeforeRecord},
		"space is reused when read, not when done": {faults: roomByRead},
		"no fence between space_waiting and head":  {faults: noWaitFence},
		"no look at head before waiting":           {faults: noWaitLook},
		"the space bell is read after the look":    {faults: spaceBellReadLate},
		"no fence between head and space_waiting":  {faults: noReleaseFence},
		"a wake only when the half is crossed":     {faults: wakeOnCrossingOnly},
		"a pad takes no room":                      {faults: padNotCounted},
	} {
		t.Run(name, func(t *testing.T) {
			if states, wrong := m.explore(); wrong == "" {
				t.Errorf("%d states and nothing found", states)
			}
		})
	}
}
