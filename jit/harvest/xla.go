package harvest

type xlaIndex struct{}

func (f *Finder) fromXLA(m *machineCode, entry string, p Places) (candidate, *Missing) {
	return candidate{}, nil
}
