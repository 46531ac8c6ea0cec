"""What `memrl list cores --verbose` prints."""

from rich.table import Table

from memrl.cores import core_config, list_cores
from memrl.cores.facts import core_facts
from memrl.errors import MemrlError
from memrl.runner.memory import size_text


def core_table(features: int) -> Table:
    """The facts of every core with default hyperparameters and D = `features`, or why it cannot be made alone."""
    table = Table("core", "parameters", "state per environment", "FLOPs per step", "in time")
    for column in table.columns[1:4]:
        column.justify = "right"
    for name in list_cores():
        try:
            facts = core_facts(core_config(name), features)
        except MemrlError as error:
            table.add_row(name, "", "", "", str(error).partition(": ")[2])
            continue
        table.add_row(
            name,
            f"{facts.parameters:,}",
            size_text(facts.state_bytes),
            f"{facts.step_flops:,.0f}",
            "parallel" if facts.parallel else "sequential",
        )
    return table
