"""Variance of a mean over seeds and examples, term by term, as textbooks write the two-way layout without replication."""


def reference_mean_squares(table):
    """Mean squares of rows, columns and the rest of a list of rows."""
    rows, columns = len(table), len(table[0])
    mean = sum(map(sum, table)) / (rows * columns)
    of_row = [sum(row) / columns for row in table]
    of_column = [sum(row[column] for row in table) / rows for column in range(columns)]
    by_row = columns * sum((one - mean) ** 2 for one in of_row) / (rows - 1)
    by_column = rows * sum((one - mean) ** 2 for one in of_column) / (columns - 1)
    rest = sum(
        (table[row][column] - of_row[row] - of_column[column] + mean) ** 2 for row in range(rows) for column in range(columns)
    )
    return mean, by_row, by_column, rest / ((rows - 1) * (columns - 1))


def reference_variance(table):
    """Of the mean, and its degrees of freedom by Satterthwaite."""
    rows, columns = len(table), len(table[0])
    _, by_row, by_column, rest = reference_mean_squares(table)
    count = rows * columns
    variance = max((by_row + by_column - rest) / count, by_row / count, by_column / count)
    below = (
        (by_row / count) ** 2 / (rows - 1)
        + (by_column / count) ** 2 / (columns - 1)
        + (rest / count) ** 2 / ((rows - 1) * (columns - 1))
    )
    return variance, variance**2 / below
