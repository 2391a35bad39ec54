"""A contract type for import-linter that it does not have: an allow-list, so that what is new is not allowed yet."""

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class AllowedContract(Contract):
    """Modules in `importers` may import of package `of` only `allowed`, with what is below each."""

    # import-linter reads these declarations and puts the values of pyproject.toml in their place.
    importers: Any = fields.ListField(subfield=fields.StringField())
    of: Any = fields.StringField()
    allowed: Any = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        found = [
            f"{importer} -> {imported} (line {detail['line_number']})"
            for importer in sorted(graph.modules)
            if _within(importer, self.importers)
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if _within(imported, [self.of]) and imported != self.of and not _within(imported, self.allowed)
            for detail in graph.get_import_details(importer=importer, imported=imported)
        ]
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["found"]:
            output.print(line)


def _within(module: str, packages: list[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
