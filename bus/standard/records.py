"""The records of the standard as Python types.

Generated from schemas/*.avsc; do not edit. After you change a schema, run
`python -m bus.standard.generate`.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal, TypedDict

Status = Literal[
    "active",
    "tobedeleted",
]
"""Whether the record is active, or has been withdrawn by its source (tobedeleted)."""

SessionType = Literal[
    "gradingPeriod",
    "semester",
    "schoolYear",
    "term",
    "other",
]
"""What kind of session; OneRoster 1.2 SessionType."""

OrgType = Literal[
    "department",
    "school",
    "district",
    "local",
    "state",
    "national",
    "other",
]
"""What kind of organization; OneRoster 1.2 OrgType. other: one that this version does not know."""

GuardianRole = Literal[
    "guardian",
    "parent",
    "relative",
    "other",
]
"""The relationship to the student; OneRoster 1.2 RoleType, the part of it that is family."""

StaffRole = Literal[
    "administrator",
    "aide",
    "counselor",
    "districtAdministrator",
    "principal",
    "proctor",
    "siteAdministrator",
    "systemAdministrator",
    "teacher",
    "other",
]
"""What the person does; OneRoster 1.2 RoleType, the part of it that is staff."""

ClassType = Literal[
    "homeroom",
    "scheduled",
    "other",
]
"""homeroom: where attendance is taken; scheduled: a lesson. OneRoster 1.2 ClassType."""

Sex = Literal[
    "male",
    "female",
    "other",
    "unspecified",
]
"""OneRoster 1.2 Gender."""

OptOutScope = Literal[
    "directoryInformation",
    "vendor",
    "purpose",
    "protected",
]
"""directoryInformation: what the district designates as directory information (34 CFR 99.37). vendor: all data, to one vendor. purpose: all data, for one purpose. protected: all data, to every vendor, whatever its agreement says, for example because of a protective order or of address confidentiality. The default is protected, the widest, so that an older reader never discloses too much."""

OptOutDecidedBy = Literal[
    "parent",
    "eligibleStudent",
    "district",
    "court",
    "unknown",
]
"""parent: a parent or guardian. eligibleStudent: the student, from the age of 18 or at a postsecondary institution (34 CFR 99.3). district: the school or the district. court: a court or an agency of the state. unknown: the source does not say."""

OptOutDecision = Literal[
    "deny",
    "allow",
]
"""deny: the data is not disclosed. allow: a written consent, signed and dated, that says which records are disclosed, for what purpose and to whom (34 CFR 99.30). The default is deny, so that an older reader never discloses too much."""

AttendanceEventCategory = Literal[
    "inAttendance",
    "excusedAbsence",
    "unexcusedAbsence",
    "tardy",
    "earlyDeparture",
    "partial",
    "other",
]
"""Ed-Fi AttendanceEventCategoryDescriptor, in camel case; other: a category of the district."""

EnrollmentRole = Literal[
    "administrator",
    "aide",
    "proctor",
    "student",
    "teacher",
    "other",
]
"""What the person is in the class; OneRoster 1.2 EnrolRole, with aide from 1.1."""

ScoreStatus = Literal[
    "exempt",
    "fullyGraded",
    "notSubmitted",
    "partiallyGraded",
    "submitted",
    "late",
    "other",
]
"""OneRoster 1.2 ScoreStatus, in camel case."""


class AcademicSession(TypedDict):
    """A school year, semester, term or grading period.

    OneRoster 1.2 AcademicSession; Ed-Fi Session; CEDS Session.
    """

    sourcedId: str
    """The id of the session in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    title: str
    """Name of the session."""
    type: SessionType
    """What kind of session it is."""
    startDate: date
    """First day, in the district's own calendar."""
    endDate: date
    """Last day, included (OneRoster's own text says excluded; extracts in the field and Ed-Fi include it)."""
    parentSourcedId: str | None
    """The session that this one is a part of."""
    schoolYear: int | None
    """The calendar year in which the school year ends."""


class Org(TypedDict):
    """An organization of the district: the district itself, a school, a department.

    OneRoster 1.2 Org; Ed-Fi LocalEducationAgency and School; CEDS K12 School.
    """

    sourcedId: str
    """The id of the organization in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    name: str
    """Name of the organization."""
    type: OrgType
    """What kind of organization it is."""
    identifier: str | None
    """The number by which people know the organization, such as the state's school number."""
    parentSourcedId: str | None
    """The organization above this one."""


class Course(TypedDict):
    """A course of the catalog; what is taught, apart from when and by whom.

    OneRoster 1.2 Course; Ed-Fi Course; CEDS Course.
    """

    sourcedId: str
    """The id of the course in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    title: str
    """Name of the course."""
    courseCode: str | None
    """The code by which people know the course."""
    schoolYearSourcedId: str | None
    """The school year to which the course belongs."""
    orgSourcedId: str | None
    """The organization that offers the course."""
    grades: list[str]
    """Grade levels for which the course is meant, in CEDS codes."""
    subjects: list[str]
    """Subject names."""
    subjectCodes: list[str]
    """Subject codes (SCED, as a rule), in the order of subjects."""


class Guardian(TypedDict):
    """A parent, guardian or relative of a student.

    OneRoster 1.2 User; Ed-Fi Contact; CEDS Person.
    """

    sourcedId: str
    """The id of the guardian in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    enabledUser: bool
    """Whether the person may sign in."""
    givenName: str
    """First name."""
    familyName: str
    """Last name."""
    middleName: str | None
    """Middle names, separated by spaces."""
    preferredFirstName: str | None
    """First name by which the person wants to be called; products show it where it is set."""
    preferredMiddleName: str | None
    """Middle name by which the person wants to be called."""
    preferredLastName: str | None
    """Last name by which the person wants to be called."""
    pronouns: str | None
    """Pronouns of the person, as they gave them."""
    username: str | None
    """The name with which the person signs in."""
    email: str | None
    """Electronic mail address."""
    sms: str | None
    """Number for text messages."""
    phone: str | None
    """Telephone number."""
    identifier: str | None
    """The number by which people know the person: a student number, a staff number."""
    userMasterIdentifier: str | None
    """The person's id across all systems of the district."""
    userIds: list[str]
    """Ids in other systems, each written as {type:identifier}."""
    role: GuardianRole
    """The relationship to the student."""
    orgSourcedIds: list[str]
    """Schools and other organizations to which the person belongs."""
    primaryOrgSourcedId: str | None
    """The one of orgSourcedIds that comes first: the home school."""
    agentSourcedIds: list[str]
    """People to whom this person is related: guardians of a student, students of a guardian."""


class Staff(TypedDict):
    """Someone who works for the district: a teacher, an aide, an administrator.

    OneRoster 1.2 User; Ed-Fi Staff; CEDS K12 Staff.
    """

    sourcedId: str
    """The id of the staff member in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    enabledUser: bool
    """Whether the person may sign in."""
    givenName: str
    """First name."""
    familyName: str
    """Last name."""
    middleName: str | None
    """Middle names, separated by spaces."""
    preferredFirstName: str | None
    """First name by which the person wants to be called; products show it where it is set."""
    preferredMiddleName: str | None
    """Middle name by which the person wants to be called."""
    preferredLastName: str | None
    """Last name by which the person wants to be called."""
    pronouns: str | None
    """Pronouns of the person, as they gave them."""
    username: str | None
    """The name with which the person signs in."""
    email: str | None
    """Electronic mail address."""
    sms: str | None
    """Number for text messages."""
    phone: str | None
    """Telephone number."""
    identifier: str | None
    """The number by which people know the person: a student number, a staff number."""
    userMasterIdentifier: str | None
    """The person's id across all systems of the district."""
    userIds: list[str]
    """Ids in other systems, each written as {type:identifier}."""
    role: StaffRole
    """What the person does: the primary role where the source names several."""
    orgSourcedIds: list[str]
    """Schools and other organizations to which the person belongs."""
    primaryOrgSourcedId: str | None
    """The one of orgSourcedIds that comes first: the home school."""
    grades: list[str]
    """Grade levels taught, in CEDS codes."""
    agentSourcedIds: list[str]
    """People to whom this person is related: guardians of a student, students of a guardian."""


class Student(TypedDict):
    """A student of the district.

    OneRoster 1.2 User with the role student; Ed-Fi Student and StudentSchoolAssociation; CEDS K12
    Student.
    """

    sourcedId: str
    """The id of the student in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    enabledUser: bool
    """Whether the person may sign in."""
    givenName: str
    """First name."""
    familyName: str
    """Last name."""
    middleName: str | None
    """Middle names, separated by spaces."""
    preferredFirstName: str | None
    """First name by which the person wants to be called; products show it where it is set."""
    preferredMiddleName: str | None
    """Middle name by which the person wants to be called."""
    preferredLastName: str | None
    """Last name by which the person wants to be called."""
    pronouns: str | None
    """Pronouns of the person, as they gave them."""
    username: str | None
    """The name with which the person signs in."""
    email: str | None
    """Electronic mail address."""
    sms: str | None
    """Number for text messages."""
    phone: str | None
    """Telephone number."""
    identifier: str | None
    """The number by which people know the person: a student number, a staff number."""
    userMasterIdentifier: str | None
    """The person's id across all systems of the district."""
    userIds: list[str]
    """Ids in other systems, each written as {type:identifier}."""
    orgSourcedIds: list[str]
    """Schools and other organizations to which the person belongs."""
    primaryOrgSourcedId: str | None
    """The one of orgSourcedIds that comes first: the home school."""
    grades: list[str]
    """Grade levels in CEDS codes (KG, 01 … 12); one, as a rule."""
    agentSourcedIds: list[str]
    """People to whom this person is related: guardians of a student, students of a guardian."""


class Class(TypedDict):
    """A class: a course taught at a school in a term, with its students and teachers.

    OneRoster 1.2 Class; Ed-Fi Section; CEDS Course Section.
    """

    sourcedId: str
    """The id of the class in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    title: str
    """Name of the class."""
    classCode: str | None
    """The code by which people know the class."""
    classType: ClassType
    """Whether it is a homeroom or a lesson."""
    courseSourcedId: str
    """The course that is taught."""
    schoolSourcedId: str
    """The school in which it is taught."""
    termSourcedIds: list[str]
    """The terms in which it is taught."""
    location: str | None
    """The room."""
    periods: list[str]
    """Periods of the day in which it is taught."""
    grades: list[str]
    """Grade levels of the class, in CEDS codes."""
    subjects: list[str]
    """Subject names."""
    subjectCodes: list[str]
    """Subject codes (SCED, as a rule), in the order of subjects."""


class Demographics(TypedDict):
    """What few people may know about a student: birth, sex, race and ethnicity.

    A separate topic, so that fewer people may read it. OneRoster 1.2 Demographics; Ed-Fi
    StudentEducationOrganizationAssociation, from Data Standard 6 on StudentDemographic; CEDS K12
    Student Demographic.
    """

    sourcedId: str
    """The id of the student in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    birthDate: date | None
    """Date of birth."""
    sex: Sex | None
    """Sex as the district records it."""
    americanIndianOrAlaskaNative: bool | None
    """American Indian or Alaska Native."""
    asian: bool | None
    """Asian."""
    blackOrAfricanAmerican: bool | None
    """Black or African American."""
    nativeHawaiianOrOtherPacificIslander: bool | None
    """Native Hawaiian or other Pacific Islander."""
    white: bool | None
    """White."""
    demographicRaceTwoOrMoreRaces: bool | None
    """Two or more races."""
    hispanicOrLatinoEthnicity: bool | None
    """Hispanic or Latino."""
    countryOfBirthCode: str | None
    """Country of birth, ISO 3166 alpha-2."""
    stateOfBirthAbbreviation: str | None
    """State of birth, USPS abbreviation."""
    cityOfBirth: str | None
    """City of birth."""
    publicSchoolResidenceStatus: str | None
    """Where the student lives as seen from the school; CEDS codes."""


class OptOut(TypedDict):
    """A decision that data about a student is not disclosed, or not to a vendor or for a purpose.

    OneRoster and Ed-Fi have no such record; CEDS has the Directory Information Block Status of a
    K12 Student Enrollment. An opt-out from directory information is that of 34 CFR 99.37.
    """

    sourcedId: str
    """The id of the opt-out in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    studentSourcedId: str
    """The student whose data it is about."""
    scope: OptOutScope
    """What must not be disclosed. protected overrides every agreement."""
    vendor: str | None
    """The company, or the agreement with it, that must not receive the student's data. Only if scope is vendor, and then required. None of the three standards has this field."""
    purpose: str | None
    """The purpose for which the student's data must not be used, such as research. Only if scope is purpose, and then required. None of the three standards has this field."""
    decidedBy: OptOutDecidedBy
    """Who decided it. None of the three standards has this field."""
    beginDate: date | None
    """First day on which it holds; null: it holds from the start. None of the three standards has this field."""
    endDate: date | None
    """Last day on which it holds, included; null: it holds until it is withdrawn. None of the three standards has this field."""
    decision: OptOutDecision
    """Whether the decision keeps the student's data back, or consents to an agreement whose basis is consent. A consent counts only if scope is vendor, because it must name the company or the agreement, and only if decidedBy is parent or eligibleStudent. None of the three standards has this field."""


class Attendance(TypedDict):
    """What was noted about a student's presence on a day, or in a class of that day.

    OneRoster has no such record; this follows Ed-Fi StudentSchoolAttendanceEvent and
    StudentSectionAttendanceEvent. A correction is the same sourcedId again.
    """

    sourcedId: str
    """The id of the attendance record in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    studentSourcedId: str
    """The student."""
    schoolSourcedId: str
    """The school."""
    classSourcedId: str | None
    """The class in which it was noted; null: for the whole day."""
    eventDate: date
    """The school day, in the district's own calendar."""
    attendanceEventCategory: AttendanceEventCategory
    """What was noted."""
    attendanceEventReason: str | None
    """Why, in the words of who noted it. Can reveal health or family matters."""
    eventDuration: float | None
    """How much of the day it was, 0 to 1."""
    arrivalTime: str | None
    """When the student came, HH:MM[:SS] in the school's own time zone."""
    departureTime: str | None
    """When the student left, HH:MM[:SS] in the school's own time zone."""
    classPeriod: str | None
    """The period of the day."""
    recordedAt: datetime | None
    """When it was noted; UTC. None of the three standards has this moment."""


class Enrollment(TypedDict):
    """A person's place in a class: as a student, as its teacher.

    OneRoster 1.2 Enrollment; Ed-Fi StudentSectionAssociation and StaffSectionAssociation; CEDS K12
    Student Course Section.
    """

    sourcedId: str
    """The id of the enrollment in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    classSourcedId: str
    """The class."""
    schoolSourcedId: str
    """The school of the class."""
    userSourcedId: str
    """The person: a student or a member of staff. What a person's events are placed by."""
    role: EnrollmentRole
    """What the person is in this class."""
    primary: bool | None
    """Whether the teacher is the teacher of record. Only for teachers."""
    beginDate: date | None
    """First day in the class; null: the term's first day."""
    endDate: date | None
    """Last day in the class, included; null: the term's last day."""


class LineItem(TypedDict):
    """Something that is graded: an assignment, a test.

    OneRoster 1.2 LineItem; Ed-Fi GradebookEntry; CEDS Learner Activity.
    """

    sourcedId: str
    """The id of the line item in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    title: str
    """Name of what is graded."""
    description: str | None
    """What is asked for."""
    assignDate: date | None
    """The day from which students see it."""
    dueDate: date | None
    """The day by which it must be handed in."""
    categorySourcedId: str | None
    """The category in the gradebook."""
    classSourcedId: str
    """The class."""
    schoolSourcedId: str | None
    """The school of the class."""
    gradingPeriodSourcedId: str | None
    """The grading period in which it counts."""
    resultValueMin: float | None
    """The lowest score."""
    resultValueMax: float | None
    """The highest score."""


class Result(TypedDict):
    """A student's score for a line item.

    OneRoster 1.2 Result; Ed-Fi StudentGradebookEntry; CEDS Learner Activity result.
    """

    sourcedId: str
    """The id of the result in the source system; it never changes and is the key of the message."""
    status: Status
    """Whether the record is active or has been withdrawn. A withdrawn record keeps its other fields as they last were."""
    dateLastModified: datetime | None
    """When the source system last changed the record; UTC. Null when the source did not say. Not compared when changes are looked for."""
    lineItemSourcedId: str
    """What was graded."""
    studentSourcedId: str
    """The student."""
    classSourcedId: str | None
    """The class."""
    scoreStatus: ScoreStatus
    """How far the grading is."""
    score: float | None
    """The score, between the line item's resultValueMin and resultValueMax."""
    textScore: str | None
    """The score in letters."""
    scoreDate: date
    """The day of the score."""
    comment: str | None
    """What the teacher wrote."""
