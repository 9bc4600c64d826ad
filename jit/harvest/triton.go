package harvest

type tritonIndex struct{}

func (f *Finder) fromTriton(m *machineCode, entry string, p Places) (candidate, *Missing) {
	return candidate{}, nil
}
