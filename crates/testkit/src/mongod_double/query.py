"""The double's small part of MongoDB's query language. What it does not know it refuses."""

from bson import Binary, Int64, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS

from wire import CommandError


def order(value):
    """A key by which values of all kinds can be sorted."""
    if value is None:
        return (0, 0)
    if isinstance(value, bool):
        return (8, value)
    if isinstance(value, (int, float)):
        return (1, value)
    if isinstance(value, str):
        return (2, value)
    if isinstance(value, dict):
        return (3, [(name, order(part)) for name, part in value.items()])
    if isinstance(value, list):
        return (4, [order(part) for part in value])
    if isinstance(value, (bytes, Binary)):
        return (5, bytes(value))
    if isinstance(value, ObjectId):
        return (7, value.binary)
    if isinstance(value, DatetimeMS):
        return (9, int(value))
    if isinstance(value, Timestamp):
        return (10, (value.time, value.inc))
    return (11, repr(value))


def normal(value):
    """The same number is the same key, whatever its width."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return Int64(int(value)) if value == int(value) else value


_MISSING = object()


def field(document, path):
    value = document
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _same(one, two):
    return order(one) == order(two)


def _test(value, operator, wanted):
    present = None if value is _MISSING else value
    if operator == "$eq":
        return _same(present, wanted) or (isinstance(present, list) and any(_same(v, wanted) for v in present))
    if operator == "$ne":
        return not _test(value, "$eq", wanted)
    if operator == "$in":
        return any(_test(value, "$eq", one) for one in wanted)
    if operator == "$nin":
        return not _test(value, "$in", wanted)
    if operator == "$exists":
        return (value is not _MISSING) == bool(wanted)
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        left, right = order(present), order(wanted)
        if left[0] != right[0]:
            return False
        return {"$gt": left > right, "$gte": left >= right, "$lt": left < right, "$lte": left <= right}[operator]
    raise CommandError(2, f"unknown operator: {operator}")


def matches(document, query):
    for name, wanted in query.items():
        if name == "$and":
            good = all(matches(document, part) for part in wanted)
        elif name == "$or":
            good = any(matches(document, part) for part in wanted)
        elif name == "$comment":
            good = True
        elif name.startswith("$"):
            raise CommandError(2, f"unknown top level operator: {name}")
        elif isinstance(wanted, dict) and any(key.startswith("$") for key in wanted):
            value = field(document, name)
            good = all(_test(value, operator, one) for operator, one in wanted.items())
        else:
            good = _test(field(document, name), "$eq", wanted)
        if not good:
            return False
    return True


def in_order(documents, sort):
    for name, direction in reversed(list((sort or {}).items())):
        def key(document, name=name):
            value = field(document, name)
            return order(None if value is _MISSING else value)
        documents = sorted(documents, key=key, reverse=direction < 0)
    return documents


def projected(document, projection):
    if not projection:
        return document
    chosen = {name: bool(take) for name, take in projection.items() if name != "_id"}
    with_id = bool(projection.get("_id", True))
    if any(chosen.values()) or (not chosen and with_id):
        taken = {name for name, take in chosen.items() if take}
        return {k: v for k, v in document.items() if k in taken or (k == "_id" and with_id)}
    return {k: v for k, v in document.items() if k not in chosen and (k != "_id" or with_id)}


def updated(document, update, inserting=False):
    """The document after an update with operators, or its replacement."""
    if isinstance(update, list):
        raise CommandError(2, "updates with a pipeline are not known here")
    if not any(name.startswith("$") for name in update):
        return {"_id": document["_id"], **{k: v for k, v in update.items() if k != "_id"}}
    new = dict(document)
    for operator, fields in update.items():
        if any("." in name for name in fields):
            raise CommandError(2, "paths with dots in an update are not known here")
        if operator == "$set" or (operator == "$setOnInsert" and inserting):
            new.update(fields)
        elif operator == "$setOnInsert":
            pass
        elif operator == "$unset":
            for name in fields:
                new.pop(name, None)
        elif operator == "$inc":
            for name, by in fields.items():
                new[name] = new.get(name, 0) + by
        elif operator == "$push":
            for name, value in fields.items():
                new[name] = [*new.get(name, []), value]
        else:
            raise CommandError(9, f"unknown modifier: {operator}")
    return new


def aggregated(documents, pipeline):
    for stage in pipeline:
        ((name, argument),) = stage.items()
        if name == "$match":
            documents = [d for d in documents if matches(d, argument)]
        elif name == "$sort":
            documents = in_order(documents, argument)
        elif name == "$skip":
            documents = documents[argument:]
        elif name == "$limit":
            documents = documents[:argument]
        elif name == "$project":
            documents = [projected(d, argument) for d in documents]
        elif name == "$count":
            documents = [{argument: len(documents)}] if documents else []
        elif name == "$group":
            documents = _grouped(documents, argument)
        else:
            raise CommandError(40324, f"Unrecognized pipeline stage name: '{name}'")
    return documents


def _grouped(documents, argument):
    def value(document, expression):
        if isinstance(expression, str) and expression.startswith("$"):
            found = field(document, expression[1:])
            return None if found is _MISSING else found
        return expression

    groups = {}
    for document in documents:
        own = value(document, argument["_id"])
        group = groups.setdefault(repr(order(own)), {"_id": own})
        for name, accumulator in argument.items():
            if name == "_id":
                continue
            ((operator, expression),) = accumulator.items()
            if operator != "$sum":
                raise CommandError(15952, f"unknown group operator '{operator}'")
            group[name] = group.get(name, 0) + value(document, expression)
    return list(groups.values())
