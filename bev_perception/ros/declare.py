"""The parameter table as ROS parameters: descriptors, checks before anything is declared, and what may change when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from bev_perception.model_spec import ModelSpec
from bev_perception.parameter_table import (
    ANY_TIME,
    PARAMETERS,
    REQUIRED,
    THRESHOLD,
    UNCONFIGURED,
    Parameter,
    ParameterError,
    check_value,
    parameters_of_any_bundle,
    sensor_parameters,
    unknown_names,
)
from bev_perception.ros.parameter_files import CommandLine

ROS_TYPES = {
    "bool": RosParameter.Type.BOOL,
    "int": RosParameter.Type.INTEGER,
    "double": RosParameter.Type.DOUBLE,
    "string": RosParameter.Type.STRING,
    "string[]": RosParameter.Type.STRING_ARRAY,
}


class NodeParameters:
    """Declares the table on a node and keeps the errors of what was given at start until configure reports them.

    A wrong parameter file must not kill the process: a lifecycle node says so when it is configured.
    on_change({name: value}) is called for parameters that take effect while the node runs. given: what the node was
    started with; the values of it that rcl has no form for.
    """

    def __init__(
        self,
        node: Node,
        is_unconfigured: Callable[[], bool],
        on_change: Callable[[dict[str, Any]], None],
        given: CommandLine,
    ) -> None:
        self._node = node
        self._is_unconfigured = is_unconfigured
        self._on_change = on_change
        self._file_errors = given.errors
        # rclpy has no public way to see overrides of parameters that nobody declared.
        overrides: dict[str, RosParameter] = getattr(node, "_parameter_overrides", {})
        self._given = given.beside | {name: parameter.value for name, parameter in overrides.items()}
        self._rows: dict[str, Parameter] = {}
        self._errors: dict[str, str] = {}
        self._chosen: set[str] = set(self._given)  # by the command line, or by somebody since
        for row in PARAMETERS:
            self._declare(row)
        node.add_on_set_parameters_callback(self._on_set)

    def declare_sensors(self, spec: ModelSpec) -> None:
        """Declare the parameters that exist because of the bundle; those of another bundle go away."""
        wanted = {row.name: row for row in sensor_parameters(spec)}
        fixed = {row.name for row in PARAMETERS}
        for name in [n for n in self._rows if n not in wanted and n not in fixed]:
            self._node.undeclare_parameter(name)
            del self._rows[name]
            self._errors.pop(name, None)
        for row in wanted.values():
            if row.name not in self._rows:
                self._declare(row)

    def follow(self, spec: ModelSpec) -> None:
        """`declare_sensors`, and thresholds that nobody chose are those of the bundle. In the executor's thread."""
        self.declare_sensors(spec)
        chosen = set(self._chosen)
        wanted = {f"{THRESHOLD}{name}": value for name, value in spec.score_threshold.items()}
        changed = [RosParameter(name, value=value) for name, value in wanted.items() if name not in chosen]
        self._node.set_parameters(changed)
        self._chosen = chosen

    def thresholds(self, spec: ModelSpec) -> dict[str, float]:
        """Least score of each class: what somebody chose, else what the bundle recommends."""
        return {
            name: float(self._node.get_parameter(f"{THRESHOLD}{name}").value)
            if f"{THRESHOLD}{name}" in self._chosen and f"{THRESHOLD}{name}" in self._rows
            else recommended
            for name, recommended in spec.score_threshold.items()
        }

    def first(self, name: str) -> Any:
        """One value before the bundle is known. Raises ParameterError, with whatever else is wrong already."""
        if self._file_errors:  # whatever else is missing may stand in that file
            raise ParameterError("\n".join(self._file_errors))
        value = self._node.get_parameter_or(name).value
        if name not in self._errors and value not in (None, ""):
            return value
        required = (
            [] if name in self._errors else [f"{name}: is required and not given; {self._rows[name].description}"]
        )
        unknown = unknown_names(self._given, parameters_of_any_bundle(self._given))
        raise ParameterError("\n".join([*required, *self._errors.values(), *unknown]))

    def optional(self, name: str) -> str:
        """One text before the bundle is known; "" where it is not given."""
        return str(self._node.get_parameter(name).value or "")

    def values(self) -> dict[str, Any]:
        """All declared values, for make_config. Raises ParameterError for unknown names and refused values."""
        errors = unknown_names(self._given, self._rows.values()) + list(self._errors.values())
        if errors:
            raise ParameterError("\n".join(errors))
        found = {name: self._node.get_parameter_or(name).value for name in self._rows}
        return {name: value for name, value in found.items() if value is not None}

    def _declare(self, row: Parameter) -> None:
        value = row.default
        if row.name in self._given:
            try:
                value = check_value(row, self._given[row.name])
            except ParameterError as error:
                self._errors[row.name] = str(error)
        descriptor = ParameterDescriptor(
            description=f"{row.description} (may change: {row.change})",
            read_only=row.read_only,
            additional_constraints=f"one of: {', '.join(row.choices)}" if row.choices else "",
        )
        if row.limits and row.type == "int":
            descriptor.integer_range = [IntegerRange(from_value=int(row.limits[0]), to_value=int(row.limits[1]))]
        elif row.limits:
            descriptor.floating_point_range = [FloatingPointRange(from_value=row.limits[0], to_value=row.limits[1])]
        # `value` already is the override, checked: rclpy's own handling would kill the process for a wrong type.
        kind = ROS_TYPES[row.type]
        untyped = value is REQUIRED or value == ()  # rclpy takes an empty list for one of bytes
        start = kind if untyped else list(value) if isinstance(value, tuple) else value
        self._node.declare_parameter(row.name, start, descriptor, ignore_override=True)
        if value == ():
            self._node.set_parameters([RosParameter(row.name, kind, [])])
        self._rows[row.name] = row  # last: declaring calls _on_set too

    def _on_set(self, parameters: list[RosParameter]) -> SetParametersResult:
        for parameter in parameters:
            row = self._rows.get(parameter.name)
            if row is None or self._node.get_parameter_or(row.name).value == parameter.value:
                continue
            try:
                check_value(row, parameter.value)
            except ParameterError as error:
                return SetParametersResult(successful=False, reason=str(error))
            if row.change == UNCONFIGURED and not self._is_unconfigured():
                reason = f"{row.name}: takes effect at configure; deactivate and clean up the node first"
                return SetParametersResult(successful=False, reason=reason)
        for parameter in parameters:
            if parameter.name in self._rows:  # set now, not just being declared
                self._errors.pop(parameter.name, None)
                self._chosen.add(parameter.name)
        new = {p.name: p.value for p in parameters if p.name in self._rows and self._rows[p.name].change == ANY_TIME}
        if new:
            try:
                self._on_change(new)
            except ParameterError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)
