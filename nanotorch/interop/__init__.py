"""Bridges to other tools; each module here loads one library, which an extra installs.

- `nanotorch.interop.sklearn`: estimators of scikit-learn (extra `sklearn`)
- `nanotorch.interop.onnx`: models as ONNX files (extra `onnx`)
"""
