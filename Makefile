protos:
	$(PY) -m adaptor.protos.generate
