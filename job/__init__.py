"""trialgrid: pictures + grid -> pack -> trials -> metrics rows -> summary workbook."""
