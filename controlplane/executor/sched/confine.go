package sched

// Pressed says whether a class of larger priority than k's is active: it had work within the last 100 ms. While one is, k's kernels are
// to run on no more than its Partition of the SMs.
func (s *Scheduler) Pressed(k *Class, now int64) bool {
	for _, above := range s.classes {
		if above.Settings.Priority <= k.Settings.Priority {
			return false // the largest come first
		}
		if above.active > 0 && above.isActive(now) {
			return true
		}
	}
	return false
}

// beside is Class.Beside: an op of the class that is confined to a partition of the SMs may begin however long it takes, for those above it
// find the others free. Not while one of them has a graph in flight; and one after the other, beyond what those above leave room for.
func (k *Class) beside(b *bounds, place int32) int32 {
	if !k.Confined || b.still || (b.room <= 0 && k.inFlight > 0) {
		return 0
	}
	return place
}
