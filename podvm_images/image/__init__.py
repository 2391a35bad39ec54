"""The pod VM image: built from a lock file, byte for byte the same wherever it is built, and measured.

lock ─► packages ─► tree ─► erofs + dm-verity ─► UKI ─► GPT disk ─► formats (qcow2, VHD, tar.gz)
                                   │               └──► measure: what a TPM will say of it
                                   └ the root hash is in the UKI's command line: one signed and measured file names all
"""
